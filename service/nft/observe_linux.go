package nft

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/service"
)

// observeTries bounds the repetitions of a look during which somebody commits.
const observeTries = 10

// observe reads a table. Nothing in it is trusted: whoever can write it can write anything.
func (d *Dataplane) observe(ctx context.Context, t *table) (*snapshot, error) {
	for range observeTries {
		before, err := d.k.Genid(ctx)
		if err != nil {
			return nil, err
		}
		h, err := d.look(ctx, t)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		after, err2 := d.k.Genid(ctx)
		if err2 != nil {
			return nil, err2
		}
		if err == nil && before == after {
			d.genid.Store(after)
			return h, nil
		}
	}
	return nil, fmt.Errorf("table %s: somebody changes nftables all the time, no two looks agreed: %w", t.name, errBusy)
}

var errBusy = errors.New("nftables is busy")

func (d *Dataplane) look(ctx context.Context, t *table) (*snapshot, error) {
	h := newSnapshot(t.family)
	seen, err := d.k.Describe(ctx, t.name)
	if err != nil || !seen.Exists {
		return h, err
	}
	h.exists = true
	for _, c := range seen.Chains {
		h.chains[c.Name] = nil
	}
	for _, r := range seen.Rules {
		h.chains[r.Chain] = append(h.chains[r.Chain], r.Comment)
	}
	h.family.measure(seen.Sets)
	var ours []nfnl.Set
	for k := range setKinds {
		ours = append(ours, h.family.set(k, d.o))
	}
	for _, s := range seen.Sets {
		if !slices.ContainsFunc(ours, func(o nfnl.Set) bool { return o.Name == s.Name }) {
			h.foreign = append(h.foreign, s.Name)
		}
	}
	if h.broken = seen.Dormant || !fitting(base{}.chains(&h.family), ours, seen); h.broken {
		return h, nil
	}
	for k := range setKinds {
		if k == setAffinity {
			continue // is the packets' business
		}
		if err := h.read(ctx, d.k, t.name, k, ours[k]); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// measure finds out how large the sets are, by their names. A set that is not found has no size, and no set has that name.
func (f *family) measure(sets []nfnl.Set) {
	for k := range setKind(sizedKinds) {
		f.sizes[k] = 0
		for _, s := range sets {
			if digits, ok := strings.CutPrefix(s.Name, setNames[k]+"-"); ok && digits == strconv.FormatUint(uint64(s.Size), 10) {
				f.sizes[k] = max(f.sizes[k], s.Size)
			}
		}
	}
}

// fitting reports whether all sets are there as they must be, and base chains where there is one.
func fitting(chains []chain, sets []nfnl.Set, seen nfnl.Description) bool {
	for _, s := range sets {
		if !slices.Contains(seen.Sets, s) {
			return false
		}
	}
	for _, c := range seen.Chains {
		i := slices.IndexFunc(chains, func(o chain) bool { return o.Name == c.Name })
		if i >= 0 && chains[i].Chain != c || i < 0 && c.Type != "" {
			return false
		}
	}
	return true
}

// read reads the elements of a set.
func (h *snapshot) read(ctx context.Context, k Kernel, t nfnl.Table, kind setKind, s nfnl.Set) error {
	elements := map[string]int{}
	reset := func() {
		switch kind {
		case setFrontends:
			clear(h.frontends)
		case setEndpoints:
			clear(h.endpoints)
		case setClasses:
			clear(h.classes)
		}
		clear(elements)
	}
	keyLen, dataLen := s.Key.Len(), s.Data.Len() // a verdict has no length
	err := k.Elements(ctx, t, s.Name, reset, func(x nfnl.Element) {
		if len(x.Key) != keyLen || len(x.Data) != dataLen {
			return
		}
		switch kind {
		case setFrontends:
			var key [24]byte
			copy(key[:], x.Key)
			h.frontends[key] = frontSeen{class: readWord(x.Data[4:]), id: readWord(x.Data[8:])}
		case setEndpoints:
			var e endpointSeen
			copy(e.value[:], x.Data)
			h.endpoints[joined(x.Key)] = e
		case setClasses:
			h.classes[readWord(x.Key)] = "" // leads nowhere useful
			if x.Verdict.Kind == nfnl.Goto {
				h.classes[readWord(x.Key)] = x.Verdict.Chain
			}
		default:
			elements[string(x.Key)] = 0
		}
	})
	if kind != setFrontends && kind != setEndpoints && kind != setClasses {
		h.others[kind] = elements
	}
	return err
}

// counts returns what Observed says.
func (h *snapshot) counts() service.Observed {
	return service.Observed{Frontends: len(h.frontends), Backends: len(h.endpoints)}
}

// agrees reports whether the kernel has what the last Apply left.
func (d *Dataplane) agrees(have map[*table]*snapshot) bool {
	d.attempts++
	var tx nfnl.Transaction
	for i, t := range d.tables {
		h := have[t]
		if h.exists != t.exists || h.broken || len(h.foreign) > len(t.foreign) || h.family.sizes != t.family.sizes {
			return false
		}
		if !h.exists {
			continue
		}
		s := &sink{table: t.name, tx: &tx, have: h, attempt: d.attempts}
		t.replay(d.ports(i, d.unchanged(nil)), s)
		h.leftovers(s)
		if tx.Len() > 0 || !t.agreesChains(h, d) {
			return false
		}
	}
	return true
}

// agreesChains compares chains and classes.
func (t *table) agreesChains(h *snapshot, d *Dataplane) bool {
	if t.base != nil {
		for _, c := range t.base.chains(&t.family) {
			if !slices.Equal(h.chains[c.Name], c.comments(&t.family)) {
				return false
			}
		}
	}
	elements := 0
	for _, c := range t.classes {
		if c.element {
			elements++
			if h.classes[c.number] != c.name {
				return false
			}
		}
		for _, one := range c.class.chains(&t.family, d.node, d.o.MasqueradeMark) {
			if c.chains != nil && c.refs > 0 && !slices.Equal(h.chains[one.Name], one.comments(&t.family)) {
				return false
			}
		}
	}
	for _, c := range t.orphans {
		if c.element {
			elements++
		}
	}
	return len(h.classes) == elements
}
