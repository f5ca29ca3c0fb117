package ipvstest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
)

// IPVS is a kernel's IPVS in memory, as strict as the real one: the methods of ipvs.Conn. Make one with NewIPVS.
type IPVS struct {
	// Fault is asked before every call; an error makes the call fail and change nothing. nil refuses nothing. It must not call the IPVS.
	Fault func(Call) error

	// Missing says that the module is not loaded.
	Missing bool

	// Lacks are schedulers that the kernel has not.
	Lacks []string

	// Kernel is what Release returns.
	Kernel string

	mu       sync.Mutex
	servers  map[ipvs.Key]*ipvs.Server
	timeouts ipvs.Timeouts
	counts   Counts
}

// Call is a call that Fault may refuse.
type Call struct {
	Op     string      // "servers", "walk", "reals", "write", "timeouts"
	Change ipvs.Change // of a write, which makes one Call per change
}

// Counts says how much the kernel was asked.
type Counts struct {
	Reads   int // calls of Servers, Walk and Reals
	Changes int // that were made
}

// NewIPVS returns a kernel's IPVS without virtual servers, of Linux 6.1.
func NewIPVS() *IPVS {
	return &IPVS{Kernel: "6.1.0-56-amd64", Lacks: []string{"twos"}, servers: map[ipvs.Key]*ipvs.Server{}, timeouts: ipvs.Timeouts{TCP: 900, TCPFin: 120, UDP: 300}}
}

func (i *IPVS) enter(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	i.mu.Lock()
	if i.Missing {
		i.mu.Unlock()
		return fmt.Errorf("%w: %w", ipvs.ErrNoIPVS, syscall.ENOENT)
	}
	if i.Fault != nil {
		if err := i.Fault(Call{Op: op}); err != nil {
			i.mu.Unlock()
			return err
		}
	}
	i.counts.Reads++
	return nil
}

// Servers returns all virtual servers.
func (i *IPVS) Servers(ctx context.Context) ([]ipvs.Server, error) {
	if err := i.enter(ctx, "servers"); err != nil {
		return nil, err
	}
	defer i.mu.Unlock()
	return i.all(), nil
}

func (i *IPVS) all() []ipvs.Server {
	var all []ipvs.Server
	for _, s := range i.servers {
		c := *s
		c.Reals = slices.Clone(s.Reals)
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b ipvs.Server) int { return compareKeys(a.Key, b.Key) })
	return all
}

func compareKeys(a, b ipvs.Key) int {
	if a.Family != b.Family {
		return int(a.Family) - int(b.Family)
	}
	if a.Mark != b.Mark {
		return int(int64(a.Mark) - int64(b.Mark))
	}
	if c := a.Addr.Compare(b.Addr); c != 0 {
		return c
	}
	return int(a.Protocol) - int(b.Protocol)
}

// Walk calls server and real for all.
func (i *IPVS) Walk(ctx context.Context, server func(ipvs.Key), real func(ipvs.Key, ipvs.Real)) error {
	if err := i.enter(ctx, "walk"); err != nil {
		return err
	}
	all := i.all()
	i.mu.Unlock()
	for _, s := range all {
		server(s.Key)
		for _, r := range s.Reals {
			real(s.Key, r)
		}
	}
	return nil
}

// Reals returns the real servers of one.
func (i *IPVS) Reals(ctx context.Context, k ipvs.Key) ([]ipvs.Real, error) {
	if err := i.enter(ctx, "reals"); err != nil {
		return nil, err
	}
	defer i.mu.Unlock()
	s := i.servers[k]
	if s == nil {
		return nil, &ipvs.Error{Change: ipvs.Change{Verb: ipvs.DeleteServer, Key: k}, Errno: syscall.ESRCH}
	}
	return slices.Clone(s.Reals), nil
}

// Release returns Kernel.
func (i *IPVS) Release() string { return i.Kernel }

// SetTimeouts changes the timeouts.
func (i *IPVS) SetTimeouts(ctx context.Context, t ipvs.Timeouts) error {
	if err := i.enter(ctx, "timeouts"); err != nil {
		return err
	}
	defer i.mu.Unlock()
	for _, one := range []struct{ to, from *uint32 }{{&i.timeouts.TCP, &t.TCP}, {&i.timeouts.TCPFin, &t.TCPFin}, {&i.timeouts.UDP, &t.UDP}} {
		if *one.from != 0 {
			*one.to = *one.from
		}
	}
	return nil
}

// Timeouts returns the timeouts.
func (i *IPVS) Timeouts() ipvs.Timeouts {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.timeouts
}

// Write makes changes in order.
func (i *IPVS) Write(ctx context.Context, changes []ipvs.Change) []error {
	i.mu.Lock()
	defer i.mu.Unlock()
	errs := make([]error, len(changes))
	failed := false
	for n, c := range changes {
		err := ctx.Err()
		if err == nil && i.Missing {
			err = fmt.Errorf("%w: %w", ipvs.ErrNoIPVS, syscall.ENOENT)
		}
		if err == nil && i.Fault != nil {
			err = i.Fault(Call{"write", c})
		}
		if err == nil {
			if errno := i.change(c); errno != 0 {
				err = &ipvs.Error{Change: c, Errno: errno}
			}
		}
		if err == nil {
			i.counts.Changes++
		}
		errs[n], failed = err, failed || err != nil
	}
	if !failed {
		return nil
	}
	return errs
}

// Refuse is a Fault error that looks like the kernel's.
func Refuse(c Call, errno syscall.Errno) error { return &ipvs.Error{Change: c.Change, Errno: errno} }

func (i *IPVS) change(c ipvs.Change) syscall.Errno {
	s := i.servers[c.Key]
	switch {
	case c.Verb != ipvs.AddServer && s == nil:
		return syscall.ESRCH
	case c.Verb == ipvs.AddServer && s != nil:
		return syscall.EEXIST
	}
	switch c.Verb {
	case ipvs.AddServer, ipvs.SetServer:
		if !slices.Contains(ipvs.Schedulers(), c.Settings.Scheduler) || slices.Contains(i.Lacks, c.Settings.Scheduler) {
			return syscall.ENOENT
		}
		if c.Settings.Flags&ipvs.Persistent == 0 {
			c.Settings.Timeout = 0
		}
		if s == nil {
			s = &ipvs.Server{Key: c.Key}
			i.servers[c.Key] = s
		}
		s.Settings = c.Settings
		return 0
	case ipvs.DeleteServer:
		delete(i.servers, c.Key)
		return 0
	}
	n, found := slices.BinarySearchFunc(s.Reals, c.Real, func(r ipvs.Real, a netip.AddrPort) int { return r.Addr.Compare(a) })
	a := c.Real.Addr()
	switch {
	case c.Verb != ipvs.AddReal && !found:
		return syscall.ENOENT
	case c.Verb == ipvs.DeleteReal:
		s.Reals = slices.Delete(s.Reals, n, n+1)
		return 0
	case c.Weight < 0:
		return syscall.ERANGE
	case c.Verb == ipvs.AddReal && found:
		return syscall.EEXIST
	case service.FamilyOf(a) != c.Key.Family, a.IsMulticast(), a.IsUnspecified(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}), a.Is6() && a.IsLinkLocalUnicast():
		return syscall.EINVAL
	case !found:
		s.Reals = slices.Insert(s.Reals, n, ipvs.Real{Addr: c.Real})
	}
	s.Reals[n].Weight, s.Reals[n].Foreign = c.Weight, false
	return 0
}

// SetConnections says how many connections a real server has. It is an error if there is no such real server.
func (i *IPVS) SetConnections(k ipvs.Key, real netip.AddrPort, active, inactive uint32) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if s := i.servers[k]; s != nil {
		for n := range s.Reals {
			if s.Reals[n].Addr == real {
				s.Reals[n].Active, s.Reals[n].Inactive = active, inactive
				return nil
			}
		}
	}
	return errors.New("no such real server")
}

// Flush removes everything, as ipvsadm -C does.
func (i *IPVS) Flush() {
	i.mu.Lock()
	defer i.mu.Unlock()
	clear(i.servers)
}

// Counts returns how much was asked since ResetCounts.
func (i *IPVS) Counts() Counts {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.counts
}

// ResetCounts sets the counts to zero.
func (i *IPVS) ResetCounts() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.counts = Counts{}
}

// schedule returns the real servers that get a new connection to a virtual server, or false if there is none such.
func (i *IPVS) schedule(k ipvs.Key) (ipvs.Server, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.servers[k]
	if s == nil {
		return ipvs.Server{}, false
	}
	c := *s
	c.Reals = slices.DeleteFunc(slices.Clone(s.Reals), func(r ipvs.Real) bool { return r.Weight == 0 })
	return c, true
}
