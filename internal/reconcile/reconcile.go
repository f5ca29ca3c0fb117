// Package reconcile holds what every kernel concern does alike: compare two sets of objects, and write a
// plan while forgiving what is already as wanted.
package reconcile

import (
	"context"
	"errors"
	"io/fs"

	"github.com/podnet/podnet/rtnl"
)

// Writer writes a plan to the kernel; see rtnl.Conn.Write.
type Writer interface {
	Write(ctx context.Context, p rtnl.Plan) []error
}

// Write executes p and returns what it did, without the changes that failed, and the joined failures. Deleting what is gone already
// is no failure: the kernel removes dependent objects by itself.
func Write(ctx context.Context, w Writer, p rtnl.Plan) (rtnl.Plan, error) {
	if p.Empty() {
		return nil, nil
	}
	results := w.Write(ctx, p)
	if results == nil {
		return p, nil
	}
	done := make(rtnl.Plan, 0, len(p))
	var failed []error
	for i, c := range p {
		switch err := results[i]; {
		case err == nil:
			done = append(done, c)
		case c.Verb == rtnl.Delete && errors.Is(err, fs.ErrNotExist):
		default:
			failed = append(failed, err)
		}
	}
	return done, errors.Join(failed...)
}
