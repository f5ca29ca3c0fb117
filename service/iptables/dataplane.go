package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/podnet/podnet/service"
)

// Options are the settings of a Dataplane. The zero Options work.
type Options struct {
	// Name keeps several users on one host apart; "" is the one of podnet-proxy. Any text is allowed: a hash of it stands in the names of the chains.
	Name string

	// MasqueradeMark is the one bit of the packet mark that says: give this packet the node's address. It is cleared when it was obeyed. 0 is 0x4000.
	MasqueradeMark uint32

	// Forward also accepts forwarded packets of translated connections, at the end of the chain FORWARD: for hosts where Docker has set its policy to DROP.
	Forward bool

	// Poll is how often Watch looks whether somebody removed our rules, because iptables announces nothing. 0 is 5 s.
	Poll time.Duration
}

// Dataplane keeps Services in iptables. Make one with New. It may be used by several goroutines.
type Dataplane struct {
	kernel  Kernel
	options Options
	names   names
	mark    string

	mu       sync.Mutex
	observed bool
	families map[service.Family]*family
	probed   map[service.Family]map[string]error // what the kernel lacks; absent: not known
	programs map[service.Name]service.Program    // those that are in place
}

var _ service.Dataplane = (*Dataplane)(nil)

// family is what is known of one family.
type family struct {
	service.Family
	err         error // why it cannot be used; nil: it can
	nat, filter map[string]string
	jumps       map[string][]string // rules in built-in chains that lead to us, by "table chain"
	hooked      bool                // they are as they should be
	lacks       map[string]error    // features that the kernel does not have
	plane       *plane
}

// New returns a Dataplane. It touches nothing.
func New(k Kernel, o Options) *Dataplane {
	if o.MasqueradeMark == 0 {
		o.MasqueradeMark = 0x4000
	}
	if o.Poll <= 0 {
		o.Poll = 5 * time.Second
	}
	mark := fmt.Sprintf("%#[1]x/%#[1]x", o.MasqueradeMark)
	return &Dataplane{kernel: k, options: o, names: newNames(o.Name), mark: mark, families: map[service.Family]*family{},
		probed: map[service.Family]map[string]error{}, programs: map[service.Name]service.Program{}}
}

// Capabilities returns the name "iptables", and all protocols. Endpoints are chosen at random.
func (d *Dataplane) Capabilities() service.Capabilities {
	return service.Capabilities{Name: "iptables", Protocols: protocols()}
}

// checkNode refuses device names that would be something else in a rule.
func checkNode(n service.Node) error {
	for _, name := range []string{n.LocalPods.Interface, n.LocalPods.InterfacePrefix} {
		if len(name) > 15 || strings.ContainsAny(name, " \t\n\"'!/") || strings.HasPrefix(name, "-") {
			return fmt.Errorf("iptables: LocalPods %q: want the name of a device", name)
		}
	}
	return nil
}

// Observe reads our chains and the rules that lead to them. The first one also finds out what the kernel lacks, with a chain that it makes and removes. A host without one of the
// families has the other; the error is about both.
func (d *Dataplane) Observe(ctx context.Context) (service.Observed, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if bits.OnesCount32(d.options.MasqueradeMark) != 1 {
		return service.Observed{}, fmt.Errorf("iptables options: MasqueradeMark %#x: want one bit", d.options.MasqueradeMark)
	}
	d.observed = false
	var seen service.Observed
	var errs []error
	for _, f := range service.Families() {
		s, foreign, err := d.observe(ctx, f)
		if err != nil {
			errs = append(errs, fmt.Errorf("iptables: %s: %w", f, err))
			continue
		}
		d.observed = true
		seen.Frontends += s.frontends
		seen.Backends += s.backends
		seen.Foreign = seen.Foreign || foreign
	}
	if err := ctx.Err(); err != nil {
		d.observed = false
		return service.Observed{}, err
	}
	if !d.observed {
		return service.Observed{}, errors.Join(errs...)
	}
	return seen, nil
}

// observe reads one family.
func (d *Dataplane) observe(ctx context.Context, f service.Family) (saved, bool, error) {
	fam := d.families[f]
	first := fam == nil || fam.err != nil
	if first {
		fam = &family{Family: f}
		d.families[f] = fam
		if _, known := d.probed[f]; !known {
			lacks, err := d.probe(ctx, f)
			if fam.err = err; err != nil {
				return saved{}, false, err
			}
			d.probed[f] = lacks
		}
		fam.lacks = d.probed[f]
	}
	nat, filter, err := d.read(ctx, f)
	if err != nil {
		fam.err = err
		return saved{}, false, err
	}
	jumps := map[string][]string{}
	for table, s := range map[string]saved{"nat": nat, "filter": filter} {
		for c, list := range s.jumps {
			jumps[table+" "+c] = list
		}
	}
	hooked := d.hooked(jumps)
	foreign := !first && fam.plane != nil && (fam.hooked && !hooked || !maps.Equal(fam.nat, nat.chains) || !maps.Equal(fam.filter, filter.chains))
	fam.nat, fam.filter, fam.jumps, fam.hooked = nat.chains, filter.chains, jumps, hooked
	if fam.plane != nil {
		fam.plane.nat.found(fam.nat)
		fam.plane.filter.found(fam.filter)
	}
	return nat, foreign, nil
}

func (d *Dataplane) read(ctx context.Context, f service.Family) (nat, filter saved, err error) {
	for table, to := range map[string]*saved{"nat": &nat, "filter": &filter} {
		text, err := d.kernel.Save(ctx, f, table)
		if err != nil {
			return nat, filter, err
		}
		*to = parseSave(text, d.names)
	}
	return nat, filter, nil
}

// hooked reports whether each rule that leads to us is there once, and no other.
func (d *Dataplane) hooked(jumps map[string][]string) bool {
	todo := 0
	for _, h := range d.names.hooks(d.options.Forward) {
		add, extra := h.compare(jumps[h.table+" "+h.chain])
		todo += add + len(extra)
	}
	return todo == 0
}

// compare returns how many of the rule are missing, 0 or 1, and which are too many.
func (h hook) compare(have []string) (missing int, extra [][]string) {
	missing = 1
	for _, r := range have {
		args := fields(r)
		switch {
		case target(r) != h.to:
		case missing == 1 && slices.Equal(args, h.args()):
			missing = 0
		default:
			extra = append(extra, args)
		}
	}
	return missing, extra
}

// hook makes the rules that lead to us so that each is there once. New ones come before old ones go.
func (d *Dataplane) hook(ctx context.Context, fam *family) (int, error) {
	if fam.hooked {
		return 0, nil
	}
	writes := 0
	for _, h := range d.names.hooks(d.options.Forward) {
		missing, extra := h.compare(fam.jumps[h.table+" "+h.chain])
		if missing > 0 {
			put := d.kernel.Insert
			if h.last {
				put = d.kernel.Append
			}
			if err := put(ctx, fam.Family, h.table, h.chain, h.args()...); err != nil {
				return writes, fmt.Errorf("iptables: %s: %s: %w", fam.Family, h, err)
			}
			writes++
		}
		for _, args := range extra {
			if err := d.kernel.Delete(ctx, fam.Family, h.table, h.chain, args...); err != nil {
				return writes, fmt.Errorf("iptables: %s: %s: remove %q: %w", fam.Family, h, args, err)
			}
			writes++
		}
	}
	fam.hooked = true
	return writes, nil
}

// Watch looks every Options.Poll whether the rules that lead to us are still there: whoever flushes a table takes them with it. It calls notify when they are not.
func (d *Dataplane) Watch(ctx context.Context, notify func()) error {
	tick := time.NewTicker(d.options.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		gone, err := d.flushed(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("iptables: watch: %w", err)
		}
		if gone {
			notify()
		}
	}
}

// flushed looks at one chain of each table.
func (d *Dataplane) flushed(ctx context.Context) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, fam := range d.families {
		if !fam.hooked || fam.plane == nil {
			continue // not written yet, or known to be broken
		}
		for _, h := range d.names.hooks(false) {
			if h.chain != "POSTROUTING" && h.chain != "FORWARD" {
				continue
			}
			rules, err := d.kernel.Rules(ctx, fam.Family, h.table, h.chain)
			if err != nil {
				return false, fmt.Errorf("%s: %w", fam.Family, err)
			}
			if missing, _ := h.compare(rules); missing > 0 {
				return true, nil
			}
		}
	}
	return false, nil
}
