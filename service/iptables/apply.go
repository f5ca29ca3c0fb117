package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/podnet/podnet/service"
)

// Apply writes the chains that differ, with one iptables-restore per family. One that is refused is tried without the Services at fault.
func (d *Dataplane) Apply(ctx context.Context, delta service.Delta) (service.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.observed {
		return service.Result{}, errors.New("iptables: Apply before Observe")
	}
	if err := checkNode(delta.Node); err != nil {
		return service.Result{}, err
	}
	r := result{failed: map[service.Name][]error{}, refused: map[service.Name]service.Family{}}
	gone := d.gone(delta)
	for _, f := range service.Families() {
		if err := d.applyFamily(ctx, d.families[f], delta, gone, &r); err != nil {
			d.observed = false
			return service.Result{}, err
		}
	}
	if err := d.alsoBack(ctx, &r); err != nil {
		d.observed = false
		return service.Result{}, err
	}
	for _, n := range gone {
		delete(d.programs, n)
	}
	for _, p := range delta.Set {
		if len(r.failed[p.Name]) == 0 {
			d.programs[p.Name] = p
		}
	}
	return r.result(), nil
}

// result collects what both families did.
type result struct {
	failed  map[service.Name][]error
	refused map[service.Name]service.Family // failed in a family that is there
	writes  int
}

func (r *result) fail(n service.Name, f service.Family, err error) {
	r.failed[n] = append(r.failed[n], fmt.Errorf("iptables: %s: %w", f, err))
}

func (r *result) result() service.Result {
	out := service.Result{Writes: r.writes}
	for n, errs := range r.failed {
		if out.Failed == nil {
			out.Failed = map[service.Name]error{}
		}
		out.Failed[n] = errors.Join(errs...)
	}
	return out
}

// gone returns the Services that are no longer wanted.
func (d *Dataplane) gone(delta service.Delta) []service.Name {
	gone := slices.Clone(delta.Delete)
	if !delta.Full {
		return gone
	}
	want := map[service.Name]bool{}
	for _, p := range delta.Set {
		want[p.Name] = true
	}
	for n := range d.programs {
		if !want[n] {
			gone = append(gone, n)
		}
	}
	return gone
}

// alsoBack takes Services that were refused in one family back in the other too: each is there as a whole, or as it was before.
func (d *Dataplane) alsoBack(ctx context.Context, r *result) error {
	for _, f := range service.Families() {
		fam := d.families[f]
		if fam.err != nil {
			continue
		}
		some := false
		for n, where := range r.refused {
			if where != f {
				d.back(fam, n)
				some = true
			}
		}
		if some {
			if err := d.commit(ctx, fam, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// applyFamily brings one family up to date. An error is about everything.
func (d *Dataplane) applyFamily(ctx context.Context, fam *family, delta service.Delta, gone []service.Name, r *result) error {
	if fam.err != nil {
		for _, p := range delta.Set {
			if ofFamily(p, fam.Family) {
				r.fail(p.Name, fam.Family, fam.err)
			}
		}
		return nil
	}
	switch {
	case delta.Full:
		fam.plane = newPlane(newNode(delta.Node, fam.Family, d.names, d.mark), d.options.Forward, fam.nat, fam.filter)
	case fam.plane == nil:
		return errors.New("iptables: the first Apply has to be a full one")
	default:
		for _, n := range gone {
			if err := fam.plane.set(n, compiled{}); err != nil {
				return err
			}
		}
	}
	var set []service.Name
	for _, p := range delta.Set {
		if err := fam.put(p); err != nil {
			r.fail(p.Name, fam.Family, err)
			r.refused[p.Name] = fam.Family
			d.back(fam, p.Name)
			continue
		}
		set = append(set, p.Name)
	}
	err := d.commit(ctx, fam, r)
	if err == nil {
		return nil
	}
	culprits := d.culprits(ctx, fam, delta, set)
	if len(culprits) == 0 {
		return err
	}
	for n, why := range culprits {
		r.fail(n, fam.Family, why)
		r.refused[n] = fam.Family
		d.back(fam, n)
	}
	return d.commit(ctx, fam, r)
}

func ofFamily(p service.Program, f service.Family) bool {
	return slices.ContainsFunc(p.Ports, func(port service.PortProgram) bool { return port.Family == f })
}

// put wants a Service as the program says.
func (fam *family) put(p service.Program) error {
	for _, port := range p.Ports {
		if port.Family != fam.Family {
			continue
		}
		if err := fam.lacks["recent"]; err != nil && port.Affinity > 0 {
			return fmt.Errorf("session affinity: %w", err)
		}
		if err := fam.lacks["sctp"]; err != nil && port.Protocol == service.SCTP {
			return err
		}
	}
	c, err := compile(fam.plane.node, p)
	if err != nil {
		return err
	}
	return fam.plane.set(p.Name, c)
}

// back wants a Service as it was.
func (d *Dataplane) back(fam *family, n service.Name) {
	if err := fam.put(service.Program{Name: n, Ports: d.programs[n].Ports}); err != nil {
		_ = fam.plane.set(n, compiled{}) // no Service: never refused
	}
}

// commit writes what differs.
func (d *Dataplane) commit(ctx context.Context, fam *family, r *result) error {
	p := fam.plane
	p.finish()
	if input := p.input(); input != "" {
		if err := d.kernel.Restore(ctx, fam.Family, input); err != nil {
			return errors.Join(fmt.Errorf("iptables: %s: %w", fam.Family, err), d.reread(ctx, fam))
		}
		r.writes += p.changes()
		p.nat.written()
		p.filter.written()
	}
	n, err := d.hook(ctx, fam)
	r.writes += n
	return err
}

// reread finds out which tables a failed restore has written: each is written as a whole, one after the other.
func (d *Dataplane) reread(ctx context.Context, fam *family) error {
	nat, filter, err := d.read(ctx, fam.Family)
	if err != nil {
		return err
	}
	fam.nat, fam.filter = nat.chains, filter.chains
	fam.plane.nat.found(fam.nat)
	fam.plane.filter.found(fam.filter)
	return nil
}

// most is how often the search for culprits tries.
const most = 200

// culprits finds the Services whose rules are refused, by halves, with the rules in chains that no packet comes to. None, if rules that are surely good are refused too.
func (d *Dataplane) culprits(ctx context.Context, fam *family, delta service.Delta, names []service.Name) map[service.Name]error {
	programs := map[service.Name]service.Program{}
	for _, p := range delta.Set {
		programs[p.Name] = p
	}
	tries := 0
	try := func(names []service.Name) error {
		tries++
		return d.try(ctx, fam, names, programs)
	}
	if try(nil) != nil {
		return nil
	}
	found := map[service.Name]error{}
	var search func([]service.Name)
	search = func(names []service.Name) {
		err := try(names)
		switch {
		case err == nil:
		case len(names) == 1 || tries >= most || ctx.Err() != nil:
			for _, n := range names {
				found[n] = err
			}
		default:
			search(names[:len(names)/2])
			search(names[len(names)/2:])
		}
	}
	if len(names) > 0 {
		search(names)
	}
	return found
}

// try writes the rules of some Services into chains of their own, and removes them.
func (d *Dataplane) try(ctx context.Context, fam *family, names []service.Name, programs map[service.Name]service.Program) error {
	nat, filter := newTable("nat", nil), newTable("filter", nil)
	scratch := d.names.fixed(tryWord)
	rules := map[*table]body{nat: {rules: []string{"-j RETURN"}}, filter: {rules: []string{"-j RETURN"}}}
	for _, n := range names {
		c, err := compile(fam.plane.node, programs[n])
		if err != nil {
			return err
		}
		for _, ch := range c.chains {
			nat.touch(ch.name, n, ch.body)
		}
		for _, s := range c.spots {
			t := fam.plane.indexes[s.index].table
			into := nat
			if t.name == filter.name {
				into = filter
			}
			b := rules[into]
			b.rules = append(b.rules, s.rules...)
			rules[into] = b
		}
		for _, m := range c.marks {
			nat.touch(fam.plane.node.markChain(m), service.Name{}, body{rules: fam.plane.node.markRules(m)})
		}
	}
	var input strings.Builder
	for _, t := range []*table{nat, filter} {
		t.touch(scratch, service.Name{}, rules[t])
		t.write(&input)
	}
	err := d.kernel.Restore(ctx, fam.Family, input.String())
	if cleaned := d.kernel.Restore(ctx, fam.Family, removal([]string{scratch}, []string{scratch})); err == nil {
		err = cleaned
	}
	return errors.Join(err, d.reread(ctx, fam))
}

const tryWord = "TRY"

// removal returns the input that removes chains of the tables nat and filter, whether they are there or not.
func removal(nat, filter []string) string {
	var b strings.Builder
	for _, t := range []struct {
		name   string
		chains []string
	}{{"nat", nat}, {"filter", filter}} {
		gone := newTable(t.name, nil)
		for _, c := range t.chains {
			gone.gone[c] = true
		}
		gone.write(&b)
	}
	return b.String()
}

// Cleanup removes our chains and the rules that lead to them, of a family that is there.
func (d *Dataplane) Cleanup(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.observed = false
	d.families, d.programs = map[service.Family]*family{}, map[service.Name]service.Program{}
	var errs, absent []error
	done := false
	for _, f := range service.Families() {
		err := d.cleanup(ctx, f)
		switch {
		case err == nil:
			done = true
		case missing(err):
			absent = append(absent, fmt.Errorf("iptables: %s: %w", f, err))
		default:
			errs = append(errs, fmt.Errorf("iptables: %s: %w", f, err))
		}
	}
	if !done {
		errs = append(errs, absent...)
	}
	return errors.Join(errs...)
}

func (d *Dataplane) cleanup(ctx context.Context, f service.Family) error {
	nat, filter, err := d.read(ctx, f)
	if err != nil {
		return err
	}
	for table, s := range map[string]saved{"nat": nat, "filter": filter} {
		for chain, rules := range s.jumps {
			for _, r := range rules {
				if err := d.kernel.Delete(ctx, f, table, chain, fields(r)...); err != nil {
					return err
				}
			}
		}
	}
	if input := removal(keys(nat.chains), keys(filter.chains)); input != "" {
		return d.kernel.Restore(ctx, f, input)
	}
	return nil
}
