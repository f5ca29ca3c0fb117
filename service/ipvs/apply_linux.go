package ipvs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"syscall"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/service"
)

const (
	// together is how many virtual servers are made before their real servers are: few, so that no client meets one without.
	together = 64
	// few virtual servers are asked for their connections one by one, more by reading them all.
	few = 32
)

// applying is one Apply at work. The Dataplane is locked.
type applying struct {
	*Dataplane
	ctx    context.Context
	failed map[service.Name]error
	writes int

	missing error            // there is no such scheduler as that of all Services
	modules map[string]error // of schedulers that were asked for
}

func (a *applying) fail(n service.Name, err error) {
	if n != (service.Name{}) {
		a.failed[n] = errors.Join(a.failed[n], err)
	}
}

func (a *applying) run(full bool) error {
	if full {
		n, err := a.sysctls(a.ctx)
		a.writes += n
		if err != nil {
			return err
		}
	}
	if err := a.reread(); err != nil {
		return err
	}
	plans := a.plan()
	if a.missing != nil {
		return a.missing
	}
	if err := a.come(); err != nil {
		return err
	}
	a.routesCome()
	if err := a.serversCome(plans); err != nil {
		return err
	}
	if err := a.leave(); err != nil {
		return err
	}
	if err := a.serversLeave(plans, full); err != nil {
		return err
	}
	a.routesLeave()
	if err := a.leave(); err != nil {
		return err
	}
	a.s.settle(full || len(plans) > few)
	return nil
}

// come commits rules and elements that are wanted.
func (a *applying) come() error {
	type change struct {
		e    element
		data uint32
	}
	var tx nfnl.Transaction
	var changes []change
	add := func(e element, data uint32) {
		tx.AddElement(a.tables[familyIndex(e.family)].name, e.set.name(), nfElement(e, data))
		changes = append(changes, change{e, data})
	}
	var done []func()
	for _, t := range a.tables {
		if filled := a.s.filled[familyIndex(t.service)]; t.make || t.full || !t.fits(filled) {
			if !t.make {
				t.make = true
				a.s.lost(t.service)
			}
			t.size(filled)
			if a.s.needs(t.service) {
				a.rerecord(t, add)
			}
		}
		n, f := t.change(&tx, ruleset{a.s.node, a.s.ranges, a.s.lengthsOf(t.service)}, t.make && a.s.needs(t.service))
		a.writes += n
		done = append(done, f)
	}
	a.s.elements.differences(func(e element, data uint32, replaces bool) {
		if k, ok := recorded(e); ok {
			if _, foreign := a.s.foreign[k]; foreign {
				return
			}
		}
		if replaces {
			tx.DeleteElement(a.tables[familyIndex(e.family)].name, e.set.name(), nfElement(e, 0))
		}
		add(e, data)
	}, func(element, uint32) bool { return true })
	if err := a.k.Tables.Commit(a.ctx, &tx); err != nil {
		if errors.Is(err, syscall.ENFILE) { // what drains takes room too
			for _, t := range a.tables {
				t.full = true
			}
		}
		return fmt.Errorf("ipvs: %w", err)
	}
	for _, f := range done {
		f()
	}
	for _, c := range changes {
		a.s.elements.came(c.e, c.data)
	}
	a.writes += len(changes)
	return nil
}

// rerecord puts the records of virtual servers that drain into a table that is made anew.
func (a *applying) rerecord(t *table, add func(element, uint32)) {
	for k, h := range a.s.haveServers {
		if _, wants := a.s.wantServers[k]; !wants && k.Family == t.service {
			add(record(k), uint32(h.protocol)<<protocolShift)
		}
	}
}

// leave commits the end of elements that are not wanted and need not stay.
func (a *applying) leave() error {
	var tx nfnl.Transaction
	var gone []element
	a.s.elements.differences(func(element, uint32, bool) {}, func(e element, _ uint32) bool {
		if a.s.mustStay(e) {
			return true
		}
		tx.DeleteElement(a.tables[familyIndex(e.family)].name, e.set.name(), nfElement(e, 0))
		gone = append(gone, e)
		return true
	})
	if err := a.k.Tables.Commit(a.ctx, &tx); err != nil {
		return fmt.Errorf("ipvs: %w", err)
	}
	for _, e := range gone {
		a.s.elements.left(e)
	}
	a.writes += len(gone)
	return nil
}

func (a *applying) routesCome() {
	var plan rtnl.Plan
	a.s.routes.differences(func(_ netip.Prefix, r rtnl.Route, replaces bool) {
		verb := rtnl.Add
		if replaces {
			verb = rtnl.Replace
		}
		plan = append(plan, rtnl.Change{Verb: verb, Object: r})
	}, func(netip.Prefix, rtnl.Route) bool { return true })
	a.routes(plan, func(r rtnl.Route, err error) {
		switch {
		case err == nil:
			a.writes++
			a.s.routes.came(r.Dst, r)
		case errors.Is(err, fs.ErrExist): // it is local without us
			a.s.routes.came(r.Dst, r)
		default:
			a.routeFailed(r.Dst, err)
		}
	})
}

func (a *applying) routesLeave() {
	var plan rtnl.Plan
	a.s.routes.differences(func(netip.Prefix, rtnl.Route, bool) {}, func(p netip.Prefix, r rtnl.Route) bool {
		if p.IsSingleIP() && a.s.mustBeLocal(p.Addr()) {
			return true
		}
		plan = append(plan, rtnl.Change{Verb: rtnl.Delete, Object: r})
		return true
	})
	a.routes(plan, func(r rtnl.Route, err error) {
		switch {
		case err == nil:
			a.writes++
			a.s.routes.left(r.Dst)
		case errors.Is(err, fs.ErrNotExist):
			a.s.routes.left(r.Dst)
		default: // it stays dirty
			a.o.Logger.Warn("route of a Service not removed; tried again", "route", r, "err", err)
		}
	})
}

func (a *applying) routes(plan rtnl.Plan, result func(rtnl.Route, error)) {
	if len(plan) == 0 {
		return
	}
	slices.SortFunc(plan, func(x, y rtnl.Change) int { return x.Object.(rtnl.Route).Dst.Compare(y.Object.(rtnl.Route).Dst) })
	errs := a.k.Net.Write(a.ctx, plan)
	for i, c := range plan {
		var err error
		if errs != nil {
			err = errs[i]
		}
		result(c.Object.(rtnl.Route), err)
	}
}

// routeFailed fails the Services whose addresses are not local for want of a route.
func (a *applying) routeFailed(p netip.Prefix, err error) {
	for k, w := range a.s.wantServers {
		if k.Mark == 0 && p.Contains(k.Addr.Addr()) {
			a.fail(w.name, fmt.Errorf("make %s local: %w", p, err))
			a.s.dirty[k] = struct{}{}
		}
	}
}
