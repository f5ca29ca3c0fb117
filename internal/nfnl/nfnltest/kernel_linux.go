package nfnltest

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/google/nftables/expr"

	"github.com/podnet/podnet/internal/nfnl"
)

// Kernel is an nf_tables in memory. The zero value is an empty one.
type Kernel struct {
	// Fault is asked before every call; an error makes the call fail and change nothing. nil refuses nothing. It must not call the Kernel.
	Fault func(Call) error

	// Refuse is asked for every element that a transaction adds; an errno other than 0 refuses it. nil refuses nothing.
	Refuse func(set string, x nfnl.Element) syscall.Errno

	// Lacks names expressions that the kernel has no module for, such as "fib"; "nf_tables" stands for all.
	Lacks []string

	// Most is the most bytes of a transaction, as the send buffer of a socket limits it. 0 is no limit.
	Most int

	mu       sync.Mutex
	genid    uint32
	tables   []*table
	local    []netip.Addr
	watchers map[chan nfnl.Event]*Conn
	counts   Counts
}

// Call is a call that Fault may refuse.
type Call struct {
	Op string // "genid", "describe", "elements", "commit", "try", "watch", "own"
	N  int    // how many calls there were before
}

// Counts says how much the kernel was asked.
type Counts struct {
	Calls   int // all
	Dumps   int // Describe and Elements
	Commits int // that succeeded
	Changes int // in them
}

type table struct {
	name   nfnl.Table
	flags  uint32
	owner  *owner // nil: everybody
	chains []*chain
	sets   []*set
	handle uint64
}

type chain struct {
	nfnl.Chain
	rules []*rule
}

type rule struct {
	handle  uint64
	comment string
	exprs   []expr.Any
}

type set struct {
	nfnl.Set
	elements map[string]nfnl.Element
}

// Open connects to the kernel. Who watches with a Conn hears nothing of its own changes.
func (k *Kernel) Open() *Conn { return &Conn{k} }

// SetLocal says which addresses the namespace has, beside loopback.
func (k *Kernel) SetLocal(addrs []netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.local = slices.Clone(addrs)
}

// Counts returns how much the kernel was asked since ResetCounts.
func (k *Kernel) Counts() Counts {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.counts
}

// ResetCounts sets the counts to zero.
func (k *Kernel) ResetCounts() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.counts = Counts{}
}

// Conn has the methods of nfnl.Conn.
type Conn struct{ k *Kernel }

// Close does nothing.
func (c *Conn) Close() error { return nil }

// enter counts a call and asks Fault, then takes the lock; the caller releases it unless there is an error.
func (c *Conn) enter(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	k := c.k
	k.mu.Lock()
	if slices.Contains(k.Lacks, "nf_tables") {
		k.mu.Unlock()
		return unix.EINVAL // as the real one, for a subsystem of nfnetlink that nobody registered
	}
	n := k.counts.Calls
	k.counts.Calls++
	if op == "describe" || op == "elements" {
		k.counts.Dumps++
	}
	if k.Fault != nil {
		if err := k.Fault(Call{op, n}); err != nil {
			k.mu.Unlock()
			return err
		}
	}
	return nil
}

// Genid returns the number of transactions that were committed.
func (c *Conn) Genid(ctx context.Context) (uint32, error) {
	if err := c.enter(ctx, "genid"); err != nil {
		return 0, err
	}
	defer c.k.mu.Unlock()
	return c.k.genid, nil
}

// Describe reads a table.
func (c *Conn) Describe(ctx context.Context, name nfnl.Table) (nfnl.Description, error) {
	if err := c.enter(ctx, "describe"); err != nil {
		return nfnl.Description{}, err
	}
	defer c.k.mu.Unlock()
	t := find(c.k.tables, name)
	if t == nil {
		return nfnl.Description{}, nil
	}
	d := nfnl.Description{Exists: true, Dormant: t.flags&unix.NFT_TABLE_F_DORMANT != 0}
	for _, ch := range t.chains {
		d.Chains = append(d.Chains, ch.Chain)
		for _, r := range ch.rules {
			d.Rules = append(d.Rules, nfnl.Rule{Chain: ch.Name, Comment: r.comment, Handle: r.handle})
		}
	}
	for _, s := range t.sets {
		d.Sets = append(d.Sets, s.Set)
	}
	return d, nil
}

// Elements calls f for each element of a set.
func (c *Conn) Elements(ctx context.Context, name nfnl.Table, set string, reset func(), f func(nfnl.Element)) error {
	if err := c.enter(ctx, "elements"); err != nil {
		return err
	}
	defer c.k.mu.Unlock()
	reset()
	t := find(c.k.tables, name)
	if t == nil || t.set(set) == nil {
		return fmt.Errorf("nftables: list elements of %s in %s: %w", set, name, fs.ErrNotExist)
	}
	for _, key := range slices.Sorted(maps.Keys(t.set(set).elements)) {
		x := t.set(set).elements[key]
		x.Key, x.Data = bytes.Clone(x.Key), bytes.Clone(x.Data)
		f(x)
	}
	return nil
}

// Commit makes all changes of the transaction or none.
func (c *Conn) Commit(ctx context.Context, tx *nfnl.Transaction) error {
	if tx.Len() == 0 {
		return ctx.Err()
	}
	if err := c.enter(ctx, "commit"); err != nil {
		return err
	}
	defer c.k.mu.Unlock()
	before := c.k.genid
	touched, err := c.k.run(tx, nil, true)
	if err != nil {
		return err
	}
	tx.SetGenid(0)
	if c.k.genid != before {
		tx.SetGenid(c.k.genid)
	}
	c.k.tell(c, touched)
	return nil
}

// tell announces changes to all who watch but one.
func (k *Kernel) tell(but *Conn, touched map[nfnl.Table]bool) {
	for w, conn := range k.watchers {
		if conn == but {
			continue
		}
		for t := range touched {
			select {
			case w <- nfnl.Event{Table: t}:
			default: // full: something is there already, and says the same
			}
		}
	}
}

// owner is the socket of an Own.
type owner struct{ _ byte } // each has an address of its own

// Own commits a transaction. Its owned tables are nobody else's, and gone with release.
func (c *Conn) Own(ctx context.Context, tx *nfnl.Transaction) (release func() error, err error) {
	if err := c.enter(ctx, "own"); err != nil {
		return nil, err
	}
	defer c.k.mu.Unlock()
	o := &owner{}
	touched, err := c.k.run(tx, o, true)
	if err != nil {
		return nil, err
	}
	tx.SetGenid(c.k.genid)
	c.k.tell(nil, touched)
	return func() error {
		c.k.mu.Lock()
		defer c.k.mu.Unlock()
		gone := map[nfnl.Table]bool{}
		c.k.tables = slices.DeleteFunc(slices.Clone(c.k.tables), func(t *table) bool {
			gone[t.name] = gone[t.name] || t.owner == o
			return t.owner == o
		})
		maps.DeleteFunc(gone, func(_ nfnl.Table, is bool) bool { return !is })
		if len(gone) > 0 {
			c.k.genid++
			c.k.tell(nil, gone)
		}
		return nil
	}, nil
}

// Try checks a transaction and forgets it.
func (c *Conn) Try(ctx context.Context, tx *nfnl.Transaction) error {
	if err := c.enter(ctx, "try"); err != nil {
		return err
	}
	defer c.k.mu.Unlock()
	_, err := c.k.run(tx, nil, false)
	return err
}

// Watch calls notify at once, and when another Conn changed something.
func (c *Conn) Watch(ctx context.Context, notify func(nfnl.Event)) error {
	if err := c.enter(ctx, "watch"); err != nil {
		return err
	}
	events := make(chan nfnl.Event, 1000)
	if c.k.watchers == nil {
		c.k.watchers = map[chan nfnl.Event]*Conn{}
	}
	c.k.watchers[events] = c
	id := c.k.genid
	c.k.mu.Unlock()
	defer func() {
		c.k.mu.Lock()
		delete(c.k.watchers, events)
		c.k.mu.Unlock()
	}()
	notify(nfnl.Event{Genid: id})
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-events:
			notify(e)
		}
	}
}

func find(tables []*table, name nfnl.Table) *table {
	i := slices.IndexFunc(tables, func(t *table) bool { return t.name == name })
	if i < 0 {
		return nil
	}
	return tables[i]
}

func (t *table) chain(name string) *chain {
	i := slices.IndexFunc(t.chains, func(c *chain) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return t.chains[i]
}

func (t *table) set(name string) *set {
	i := slices.IndexFunc(t.sets, func(s *set) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return t.sets[i]
}

// clone copies what a transaction may change. Rules are never changed.
func (t *table) clone() *table {
	c := &table{name: t.name, flags: t.flags, owner: t.owner, handle: t.handle}
	for _, x := range t.chains {
		c.chains = append(c.chains, &chain{x.Chain, slices.Clone(x.rules)})
	}
	for _, x := range t.sets {
		c.sets = append(c.sets, &set{x.Set, maps.Clone(x.elements)})
	}
	return c
}

// IsLocal reports whether an address belongs to the namespace.
func (k *Kernel) IsLocal(a netip.Addr) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.isLocal(a)
}

func (k *Kernel) isLocal(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(k.local, a) }
