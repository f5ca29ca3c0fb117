package ipvs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/service"
)

var setNames = [sets]string{
	"frontends", "marks", "pod-marks", "host-marks", "remote-marks", "pod-drops", "host-drops", "remote-drops", "restricted", "sources", "hairpin", "vips",
}

func (s set) name() string { return setNames[s] }

// isMap reports whether elements have data.
func (s set) isMap() bool { return s <= remoteMarks }

// leastSize is the size of the smallest set.
const leastSize = 256

// fits reports whether the sets have room for that many elements.
func (t *table) fits(filled [sets]int) bool {
	for s, n := range filled {
		if n > int(t.sizes[s]) {
			return false
		}
	}
	return true
}

// size makes sets that hold that many elements, and some time later more. A set with a size is a hash table of fixed length: adding takes half the time, and a dump never misses an
// element, as it may while a table without a size grows (Linux 6.18, see package nfnl).
func (t *table) size(filled [sets]int) {
	for s, n := range filled {
		if t.full {
			n *= 4
		}
		for t.sizes[s] = leastSize; int(t.sizes[s]) < 2*n && t.sizes[s] < 1<<31; t.sizes[s] *= 2 {
		}
	}
}

// spec returns the definition of a set.
func (t *table) spec(s set) nfnl.Set {
	f := t.family
	frontend := []nfnl.Type{f.addr, nfnl.TypeProto, nfnl.TypePort}
	spec := nfnl.Set{Name: s.name(), Key: nfnl.Concat(frontend...), Size: t.sizes[s]}
	switch s {
	case marks:
		spec.Key = nfnl.TypeMark
	case sources:
		spec.Key = nfnl.Concat(append(frontend, nfnl.TypeMark, f.addr)...)
	case hairpin:
		spec.Key = nfnl.Concat(f.addr, f.addr)
	case vips:
		spec.Key = f.addr
	}
	if s.isMap() {
		spec.Data = nfnl.TypeMark
	}
	return spec
}

// table is what a family has in nftables.
type table struct {
	*family
	name nfnl.Table

	exists bool
	kept   bool                // it is ours to keep, so that its absence is somebody else's doing
	sizes  [sets]uint32        // the most elements of each set
	full   bool                // one of them had no room
	make   bool                // it is missing, or not as it should be: made anew
	rules  map[string][]string // the comments of the rules, by chain
	made   *ruleset            // that the rules were made of; nil: not known
}

// fingerprint is a rule's comment. The kernel completes rules, so what is read back cannot be compared.
func (t *table) fingerprint(rule []expr.Any) string {
	h := sha256.New()
	for _, x := range rule {
		b, err := expr.Marshal(byte(t.nf), x)
		if err != nil {
			panic(err) // all expressions are this package's own
		}
		_ = binary.Write(h, binary.BigEndian, uint32(len(b)))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// read finds out what there is, and returns the elements.
func (t *table) read(ctx context.Context, k Tables, to map[element]uint32) error {
	d, err := k.Describe(ctx, t.name)
	if err != nil {
		return err
	}
	t.exists, t.make, t.rules, t.made = d.Exists, !d.Exists, map[string][]string{}, nil
	if !d.Exists {
		return nil
	}
	for _, r := range d.Rules {
		t.rules[r.Chain] = append(t.rules[r.Chain], r.Comment)
	}
	chains := t.chains(ruleset{})
	t.make = d.Dormant || len(d.Chains) != len(chains) || len(d.Sets) != int(sets)
	for _, c := range chains {
		t.make = t.make || !slices.Contains(d.Chains, c.Chain)
	}
	t.sizes = [sets]uint32{}
	for s := range sets {
		if i := slices.IndexFunc(d.Sets, func(have nfnl.Set) bool { return have.Name == s.name() }); i >= 0 {
			t.sizes[s] = d.Sets[i].Size
		}
		if !slices.Contains(d.Sets, t.spec(s)) {
			t.make = true
			continue // another version's
		}
		var keys []element
		reset := func() {
			for _, e := range keys {
				delete(to, e)
			}
			keys = keys[:0]
		}
		err := k.Elements(ctx, t.name, s.name(), reset, func(x nfnl.Element) {
			e := element{t.service, s, string(x.Key)}
			var data uint32
			if len(x.Data) == 4 {
				data = binary.NativeEndian.Uint32(x.Data)
			}
			to[e] = data
			keys = append(keys, e)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// change puts the table's chains and rules into a transaction where they are not as wanted, and returns how many objects that are.
func (t *table) change(tx *nfnl.Transaction, r ruleset, needed bool) (written int, done func()) {
	if !t.exists && !t.kept && !needed {
		return 0, func() {} // a host may lack a family
	}
	if !t.make && t.made != nil && t.made.equal(r) {
		return 0, func() {}
	}
	specs := t.chains(r)
	if t.make {
		tx.AddTable(t.name)
		tx.DeleteTable(t.name)
		tx.AddTable(t.name)
		for s := range sets {
			tx.AddSet(t.name, t.spec(s))
			written++
		}
		for _, c := range specs {
			tx.AddChain(t.name, c.Chain)
			written++
		}
		written++
	}
	rules := map[string][]string{}
	for _, c := range specs {
		var comments []string
		for _, x := range c.rules {
			comments = append(comments, t.fingerprint(x))
		}
		rules[c.Name] = comments
		if !t.make && slices.Equal(comments, t.rules[c.Name]) {
			continue
		}
		if !t.make {
			tx.FlushChain(t.name, c.Name)
		}
		for i, x := range c.rules {
			tx.AddRule(t.name, nfnl.Rule{Chain: c.Name, Exprs: x, Comment: comments[i]})
			written++
		}
		written++
	}
	return written, func() {
		t.exists, t.kept, t.make, t.full, t.rules, t.made = true, true, false, false, rules, &r
	}
}

// nfElement is an element as the kernel takes it.
func nfElement(e element, data uint32) nfnl.Element {
	x := nfnl.Element{Key: []byte(e.key)}
	if e.set.isMap() {
		x.Data = binary.NativeEndian.AppendUint32(nil, data)
	}
	return x
}

// tableName returns the name of the tables of an instance.
func tableName(instance string) string {
	const name = "podnet-service-ipvs"
	if instance == "" {
		return name
	}
	sum := sha256.Sum256([]byte(instance))
	return name + "-" + hex.EncodeToString(sum[:6])
}

func newTables(instance string) []*table {
	var all []*table
	for _, f := range families {
		all = append(all, &table{family: f, name: nfnl.Table{Family: f.nf, Name: tableName(instance)}, make: true})
	}
	return all
}

func (t *table) String() string { return fmt.Sprintf("nftables %s", t.name) }

var _ = service.IPv4
