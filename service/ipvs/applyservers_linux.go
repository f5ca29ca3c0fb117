package ipvs

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/podnet/podnet/internal/nfnl"
)

// reread asks for the virtual servers of which a write failed.
func (a *applying) reread() error {
	for k := range a.s.unsure {
		reals, err := a.k.IPVS.Reals(a.ctx, k)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			a.s.gone(k)
		case err != nil:
			return err
		case a.s.haveServers[k] != nil:
			a.s.haveServers[k].reals = reals
			a.s.haveServers[k].Scheduler = "" // not known
		}
		delete(a.s.unsure, k)
		a.s.dirty[k] = struct{}{}
	}
	return nil
}

// plan compares the virtual servers that may differ.
func (a *applying) plan() []serverPlan {
	var plans []serverPlan
	for _, k := range slices.SortedFunc(maps.Keys(a.s.dirty), Key.compare) {
		if _, foreign := a.s.foreign[k]; foreign {
			w, wants := a.s.wantServers[k]
			if wants && a.o.Adopt {
				a.s.adopt(k)
			} else if wants {
				a.fail(w.name, conflict(k)) // it stays dirty
				continue
			}
		}
		p := a.s.planServer(k)
		if err := a.loaded(p); err != nil {
			a.fail(p.name, err) // it stays dirty
			continue
		}
		delete(a.s.dirty, k)
		if len(p.first)+len(p.come)+len(p.leave) > 0 {
			plans = append(plans, p)
		}
	}
	return plans
}

// loaded makes sure that the scheduler of a virtual server is one that the kernel may be asked for.
func (a *applying) loaded(p serverPlan) error {
	if len(p.first) == 0 {
		return nil
	}
	name := p.first[0].Settings.Scheduler
	shows, must := loadFirst[name]
	if !must {
		return nil
	}
	if err, asked := a.modules[name]; asked {
		return err
	}
	_, err := a.k.Net.Sysctl(a.ctx, shows)
	if err != nil {
		err = notLoaded(name, err)
		if a.isDefault(name) {
			a.missing = err
		}
	}
	if a.modules == nil {
		a.modules = map[string]error{}
	}
	a.modules[name] = err
	return err
}

// isDefault reports whether a scheduler is that of Services that name none.
func (a *applying) isDefault(name string) bool {
	byDefault, _, _ := strings.Cut(a.o.Scheduler, ":")
	return name == byDefault
}

// write makes changes of virtual servers and notes what was done. broken is called for each that failed.
func (a *applying) write(changes []Change, broken func(int, error)) error {
	if len(changes) == 0 {
		return nil
	}
	errs := a.k.IPVS.Write(a.ctx, changes)
	for i, c := range changes {
		if errs == nil || errs[i] == nil {
			a.s.done(c)
			a.writes++
			continue
		}
		if _, refused := errors.AsType[*Error](errs[i]); !refused {
			return errs[i] // the kernel was not even asked
		}
		a.s.unsure[c.Key] = struct{}{}
		a.s.dirty[c.Key] = struct{}{}
		broken(i, errs[i])
	}
	return nil
}

// serversCome makes virtual servers, and gives real servers their connections.
func (a *applying) serversCome(plans []serverPlan) error {
	for len(plans) > 0 {
		part := plans[:min(together, len(plans))]
		plans = plans[len(part):]
		var changes []Change
		var of []int
		for i, p := range part {
			for _, c := range p.first {
				changes, of = append(changes, c), append(of, i)
			}
		}
		without := map[int]bool{}
		err := a.write(changes, func(i int, err error) {
			without[of[i]] = true
			a.serverFailed(part[of[i]], err)
		})
		if err = cmp.Or(err, a.missing); err != nil {
			return err
		}
		changes, of = changes[:0], of[:0]
		for i, p := range part {
			for _, c := range p.come {
				if !without[i] {
					changes, of = append(changes, c), append(of, i)
				}
			}
		}
		if err := a.write(changes, func(i int, err error) { a.fail(part[of[i]].name, err) }); err != nil {
			return err
		}
	}
	return nil
}

// serverFailed is about a virtual server that could not be made or changed. One that somebody else made meanwhile is his: it must not get our real servers, nor our record.
func (a *applying) serverFailed(p serverPlan, err error) {
	if errors.Is(err, fs.ErrExist) {
		a.s.foreign[p.key] = Server{Key: p.key}
		delete(a.s.unsure, p.key)
		var tx nfnl.Transaction
		e := record(p.key)
		tx.DeleteElement(a.tables[familyIndex(e.family)].name, e.set.name(), nfElement(e, 0))
		if err := a.k.Tables.Commit(a.ctx, &tx); err == nil {
			delete(a.s.elements.have, e)
			a.s.elements.dirty[e] = struct{}{}
		}
		err = conflict(p.key)
	}
	a.fail(p.name, err)
	if e, ok := errors.AsType[*Error](err); ok && a.missing == nil {
		if module, _ := e.missingScheduler(); module != "" && a.isDefault(e.Change.Settings.Scheduler) {
			a.missing = err
		}
	}
}

// serversLeave takes connections from real servers, and removes those that have none.
func (a *applying) serversLeave(plans []serverPlan, full bool) error {
	var changes []Change
	var of []serverPlan
	drain := map[Key]struct{}{}
	for _, p := range plans {
		for _, c := range p.leave {
			changes, of = append(changes, c), append(of, p)
			if c.Verb == SetReal {
				drain[p.key] = struct{}{}
			}
		}
	}
	err := a.write(changes, func(i int, err error) {
		if !errors.Is(err, fs.ErrNotExist) { // it is gone already; read again it will be found
			a.fail(of[i].name, err)
		}
	})
	if err != nil {
		return err
	}
	if full {
		for k := range a.s.draining {
			drain[k] = struct{}{}
		}
	}
	return a.drained(slices.SortedFunc(maps.Keys(drain), Key.compare))
}

// drained removes real servers that are not wanted and have no connections any more.
func (a *applying) drained(keys []Key) error {
	now, err := a.connections(keys)
	if err != nil {
		return err
	}
	var changes []Change
	for _, k := range keys {
		reals, known := now[k]
		if !known || a.s.haveServers[k] == nil {
			continue
		}
		part, left := a.s.planDrained(k, reals, a.overdue(k, time.Now()))
		if !left {
			delete(a.s.draining, k)
		}
		changes = append(changes, part...)
	}
	return a.write(changes, func(int, error) {})
}

// connections returns the real servers of virtual servers as they are now.
func (a *applying) connections(keys []Key) (map[Key][]Real, error) {
	now := make(map[Key][]Real, len(keys))
	if len(keys) <= few {
		for _, k := range keys {
			reals, err := a.k.IPVS.Reals(a.ctx, k)
			if errors.Is(err, fs.ErrNotExist) {
				a.s.unsure[k] = struct{}{}
				continue
			}
			if err != nil {
				return nil, err
			}
			now[k] = reals
		}
		return now, nil
	}
	for _, k := range keys {
		now[k] = nil
	}
	err := a.k.IPVS.Walk(a.ctx, func(Key) {}, func(k Key, r Real) {
		if reals, ok := now[k]; ok {
			now[k] = append(reals, r)
		}
	})
	for k, reals := range now { // what the walk left out is no server without real servers
		if h := a.s.haveServers[k]; h != nil && len(reals) != len(h.reals) {
			delete(now, k)
		}
	}
	return now, err
}
