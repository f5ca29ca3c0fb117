package nft

import (
	"context"

	"github.com/podnet/podnet/internal/nfnl"
)

// Kernel is what a Dataplane needs of the kernel. A Conn is the real one.
type Kernel interface {
	Genid(ctx context.Context) (uint32, error)
	Describe(ctx context.Context, t nfnl.Table) (nfnl.Description, error)
	Elements(ctx context.Context, t nfnl.Table, set string, reset func(), f func(nfnl.Element)) error
	Commit(ctx context.Context, tx *nfnl.Transaction) error
	Try(ctx context.Context, tx *nfnl.Transaction) error
	Watch(ctx context.Context, notify func(nfnl.Event)) error
	nfnl.Owner
}

// Conn is the nf_tables of a network namespace. Its sockets were opened there and stay there.
type Conn struct{ *nfnl.Conn }

// Open opens the nf_tables of the network namespace at a path, or of the caller's for "". Close it when the Dataplane is not used any more.
func Open(netns string) (*Conn, error) {
	c, err := nfnl.Open(nfnl.Options{Netns: netns})
	if err != nil {
		return nil, err
	}
	return &Conn{c}, nil
}
