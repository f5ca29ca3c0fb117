package nft

import (
	"cmp"
	"slices"
	"strings"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/service"
)

// idleApplies is for how many more Applies the chain of a class stays that nobody uses: most come back.
const idleApplies = 16

// classState is a class, or an orphan: a chain that was found or is used no more.
type classState struct {
	class  class
	name   string
	number uint32
	refs   int
	tag    int // of the change that uses it first
	idle   int // the Apply since which nobody uses it

	element bool     // of the map of classes, in the kernel
	chains  []string // in the kernel
	stale   bool     // they tell pods as they were told before
}

// layer is what lay works with.
type layer struct {
	run   *run
	s     *sink
	last  bool
	sizes sizes // of the sets after the transaction
}

// outcome is what is true of a table once a transaction is done.
type outcome struct {
	exists   bool
	broken   bool
	sizes    sizes
	elements [sizedKinds]int
	base     *base
	pods     service.LocalPods
	written  []*classState // in place with element and chains
	chains   map[*classState][]string
	gone     []*classState // without element, or if they were so already, gone
	sets     []string
}

// grows reports whether sets that are there have to be replaced to have other sizes.
func (t *table) grows(to sizes) bool { return t.exists && !t.broken && to != t.family.sizes }

// lay writes the table, its sets, chains and classes as far as they are not there yet.
func (t *table) lay(l *layer) outcome {
	d, tx := l.run.d, l.s.tx
	tx.Tag = tagLayout
	out := outcome{exists: t.exists, broken: t.broken, sizes: t.family.sizes, elements: t.elements, base: t.base, pods: t.pods, chains: map[*classState][]string{}}
	if !t.needed(d.node) {
		if t.exists && l.last && l.run.all && l.s.have != nil {
			tx.DeleteTable(t.name)
			return outcome{}
		}
		if !t.exists {
			return out
		}
	}
	anew := t.broken || !t.exists
	if t.broken {
		tx.DeleteTable(t.name)
	}
	if anew {
		tx.AddTable(t.name)
	}
	f := t.family
	f.sizes = l.sizes
	for k := range setKinds {
		grows := k < sizedKinds && f.sizes[k] != t.family.sizes[k]
		if anew || grows {
			tx.AddSet(t.name, f.set(k, d.o))
		}
		if grows && !anew {
			tx.DeleteSet(t.name, t.family.name(k))
		}
	}
	if t.grows(l.sizes) {
		t.emptyOrphans(l)
	}
	out.exists, out.broken, out.sizes = true, false, l.sizes
	t.layBase(l, &f, &out)
	t.layClasses(l, &f, &out)
	if l.last {
		t.tidyUp(l, &out)
	}
	for k := range out.elements {
		if anew || l.s.without[k] {
			out.elements[k] = 0
		}
		out.elements[k] += l.s.added[k] - l.s.removed[k]
	}
	return out
}

// layBase writes the chains that every table has, if what they depend on changed.
func (t *table) layBase(l *layer, f *family, out *outcome) {
	d := l.run.d
	now := base{
		mark: d.o.MasqueradeMark, nodePorts: t.nodePorts > 0, restricted: t.restricted > 0,
		nodePortAddrs: prefixesOf(f, d.node.NodePortAddrs), allNodePorts: len(d.node.NodePortAddrs) == 0, serviceCIDRs: prefixesOf(f, d.node.ServiceCIDRs),
	}
	for bits, n := range t.prefixes {
		if n > 0 {
			now.prefixes = append(now.prefixes, bits)
		}
	}
	if t.base != nil && t.base.equal(now) && f.sizes == t.family.sizes {
		return
	}
	var before map[string][]string
	if t.base != nil {
		before = map[string][]string{}
		for _, c := range t.base.chains(&t.family) {
			before[c.Name] = c.comments(&t.family)
		}
	} else if l.s.have != nil {
		before = l.s.have.chains
	}
	for _, c := range now.chains(f) {
		if was, there := before[c.Name]; !there || !slices.Equal(was, c.comments(f)) {
			c.write(l.s.tx, t.name, f)
		}
	}
	out.base = &now
}

func samePods(a, b service.LocalPods) bool {
	return (service.Node{LocalPods: a}).Equal(service.Node{LocalPods: b})
}

// layClasses writes the chains of classes that are used and not there, and of all if pods are told in another way than before, or sets have other names.
func (t *table) layClasses(l *layer, f *family, out *outcome) {
	d := l.run.d
	again := !samePods(d.node.LocalPods, t.pods) || f.sizes != t.family.sizes
	out.pods = d.node.LocalPods
	var key value
	var due []*classState
	for _, c := range t.classes {
		used := c.refs > 0 || c.chains != nil && f.sizes != t.family.sizes
		if used && (again || c.stale || c.chains == nil || !c.element) {
			due = append(due, c)
		}
	}
	slices.SortFunc(due, func(a, b *classState) int { return cmp.Compare(a.number, b.number) })
	for _, c := range due {
		l.s.tx.Tag = tagLayout
		if !c.element {
			l.s.tx.Tag = c.tag
		}
		var names []string
		for _, one := range c.class.chains(f, d.node, d.o.MasqueradeMark) {
			names = append(names, one.Name)
			if l.s.have != nil && slices.Equal(l.s.have.chains[one.Name], one.comments(f)) {
				continue
			}
			one.write(l.s.tx, t.name, f)
		}
		if k := key.reset().word(c.number).bytes(); !c.element {
			l.s.tx.AddElement(t.name, setNames[setClasses], nfnl.Element{Key: k, Verdict: nfnl.Verdict{Kind: nfnl.Goto, Chain: c.name}})
		}
		out.written = append(out.written, c)
		out.chains[c] = names
	}
}

// emptyOrphans has orphans let go of sets that are replaced.
func (t *table) emptyOrphans(l *layer) {
	for _, c := range t.orphans {
		for _, name := range c.chains {
			l.s.tx.FlushChain(t.name, name)
		}
	}
}

// tidyUp removes elements that nobody wants. When something is written anyway, it removes chains that nobody has used for some time: first the element that leads to a chain, and
// with another transaction the chain (before Linux 6.2 both at once is EBUSY).
func (t *table) tidyUp(l *layer, out *outcome) {
	tx := l.s.tx
	if l.s.have != nil && !l.run.keep && !t.broken {
		l.s.have.leftovers(l.s)
	}
	if tx.Len() == 0 || !l.run.tidy || l.run.keep {
		return
	}
	tx.Tag = tagTidy
	var key value
	for _, c := range t.orphans {
		if c.element {
			tx.DeleteElement(t.name, setNames[setClasses], nfnl.Element{Key: key.reset().word(c.number).bytes()})
		} else {
			for _, name := range c.chains {
				tx.DeleteChain(t.name, name)
			}
		}
		out.gone = append(out.gone, c)
	}
	for _, name := range t.foreign {
		tx.DeleteSet(t.name, name)
		out.sets = append(out.sets, name)
	}
}

// accept makes an outcome true.
func (t *table) accept(o outcome) {
	again := !samePods(t.pods, o.pods)
	t.exists, t.broken, t.family.sizes, t.elements, t.base, t.pods = o.exists, o.broken, o.sizes, o.elements, o.base, o.pods
	for _, c := range t.classes {
		c.stale = c.stale || again
	}
	for _, c := range o.written {
		c.element, c.chains, c.stale = true, o.chains[c], false
	}
	for _, c := range o.gone {
		if c.element {
			c.element = false
		} else {
			delete(t.orphans, c.name)
		}
	}
	if o.sets != nil {
		t.foreign = nil
	}
	if !t.exists {
		name := t.name
		*t = *newTable(t.family, "")
		t.name = name
	}
}

// retire makes orphans of classes that nobody has used for some time.
func (t *table) retire(apply int) {
	for k, c := range t.classes {
		switch {
		case c.refs > 0:
			c.idle = 0
		case c.idle == 0:
			c.idle = apply
		case apply-c.idle > idleApplies:
			delete(t.classes, k)
			if c.chains != nil {
				t.orphans[c.name] = c
			}
		}
	}
}

// adopt takes over what the kernel has.
func (t *table) adopt(h *snapshot) {
	t.exists, t.broken, t.foreign = h.exists, h.broken, h.foreign
	if h.broken {
		*h = *newSnapshot(t.family) // nothing of it can be used
		return
	}
	t.family = h.family
	for k := range setKind(sizedKinds) {
		t.elements[k] = h.count(k)
	}
	for _, e := range h.frontends {
		t.nextID = max(t.nextID, e.id+1)
	}
	for k := range h.endpoints {
		t.nextID = max(t.nextID, uint32(k>>32)+1)
	}
	own := map[string]bool{}
	for _, c := range (base{}).chains(&t.family) {
		own[c.Name] = true
	}
	for name := range h.chains {
		if !own[name] {
			main := strings.TrimSuffix(strings.TrimSuffix(name, "/pod"), "/host")
			o := t.orphans[main]
			if o == nil {
				o = &classState{name: main}
				t.orphans[main] = o
			}
			o.chains = append(o.chains, name)
		}
	}
	for number, name := range h.classes {
		t.nextClass = max(t.nextClass, number+1)
		if o := t.orphans[name]; o != nil && !o.element {
			o.number, o.element = number, true
			continue
		}
		h.stray = append(h.stray, number)
	}
}
