//go:build !linux

package ipvs

import (
	"context"
	"errors"

	"github.com/podnet/podnet/service"
)

// Kernel is nothing here.
type Kernel struct{}

// Open is unsupported here.
func Open(OpenOptions) (Kernel, error) { return Kernel{}, errors.ErrUnsupported }

// Close does nothing.
func (k Kernel) Close() error { return nil }

// Dataplane is unsupported here.
type Dataplane struct{}

var _ service.Dataplane = (*Dataplane)(nil)

// New returns a Dataplane that does nothing here.
func New(Kernel, Options) *Dataplane { return &Dataplane{} }

// Capabilities says what the dataplane can do.
func (d *Dataplane) Capabilities() service.Capabilities { return capabilities() }

// Observe is unsupported here.
func (d *Dataplane) Observe(context.Context) (service.Observed, error) {
	return service.Observed{}, errors.ErrUnsupported
}

// Apply is unsupported here.
func (d *Dataplane) Apply(context.Context, service.Delta) (service.Result, error) {
	return service.Result{}, errors.ErrUnsupported
}

// Cleanup is unsupported here.
func (d *Dataplane) Cleanup(context.Context) error { return errors.ErrUnsupported }

// Watch is unsupported here.
func (d *Dataplane) Watch(context.Context, func()) error { return errors.ErrUnsupported }
