package iptables

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/podnet/podnet/service"
)

// layout is in every fingerprint: another version of this package that writes other rules sees that what is there is not its own.
const layout = "1"

// body is what a chain holds: rules as iptables-restore reads them, without "-A chain", and a note for people.
type body struct {
	note  string
	rules []string
}

// fingerprint stands in the comment of a chain's first rule, so that observing means comparing fingerprints and counting rules: what iptables-save prints is never
// what was written.
func (b body) fingerprint() string {
	h := sha256.New()
	h.Write([]byte(layout))
	for _, r := range b.rules {
		h.Write([]byte{'\n'})
		h.Write([]byte(r))
	}
	return fmt.Sprintf("podnet-%s-%d", hex.EncodeToString(h.Sum(nil)[:8]), max(len(b.rules), 1))
}

// write appends the chain's rules. One without a target stands in a chain that has none.
func (b body) write(to *strings.Builder, chain string) {
	comment := "-m comment --comment \"" + b.fingerprint()
	if b.note != "" {
		comment += " " + b.note
	}
	comment += "\""
	if len(b.rules) == 0 {
		to.WriteString("-A " + chain + " " + comment + "\n")
	}
	for i, r := range b.rules {
		to.WriteString("-A ")
		to.WriteString(chain)
		if i == 0 {
			to.WriteString(" " + comment)
		}
		to.WriteString(" " + r + "\n")
	}
}

// table is one of iptables' tables, as it is wanted and as it is.
type table struct {
	name string
	want map[string]wanted
	have map[string]string // fingerprints

	dirty map[string]body // to write, since want and have differ
	gone  map[string]bool // to delete
}

type wanted struct {
	fingerprint string
	owner       service.Name // the zero Name: shared
}

func newTable(name string, have map[string]string) *table {
	t := &table{name: name, want: map[string]wanted{}, dirty: map[string]body{}}
	t.found(have)
	return t
}

// found says what the kernel has. What nobody wants so far is gone.
func (t *table) found(have map[string]string) {
	t.have, t.gone = have, map[string]bool{}
	for c := range have {
		if _, ok := t.want[c]; !ok {
			t.gone[c] = true
		}
	}
	for c := range t.dirty {
		if have[c] == t.want[c].fingerprint {
			delete(t.dirty, c)
		}
	}
}

// owned returns an error if the chain belongs to another Service.
func (t *table) owned(chain string, owner service.Name) error {
	if w, ok := t.want[chain]; ok && w.owner != owner {
		return fmt.Errorf("its chain %s is that of %s: rename it", chain, w.owner)
	}
	return nil
}

// touch wants the chain to be so.
func (t *table) touch(chain string, owner service.Name, b body) {
	f := b.fingerprint()
	t.want[chain] = wanted{f, owner}
	delete(t.gone, chain)
	if t.have[chain] == f {
		delete(t.dirty, chain)
	} else {
		t.dirty[chain] = b
	}
}

// drop no longer wants the chain.
func (t *table) drop(chain string) {
	delete(t.want, chain)
	delete(t.dirty, chain)
	if _, ok := t.have[chain]; ok {
		t.gone[chain] = true
	}
}

// changes returns how many chains differ.
func (t *table) changes() int { return len(t.dirty) + len(t.gone) }

// write appends the differences for iptables-restore --noflush: a chain that is declared is emptied first, one that goes is emptied before any is removed.
func (t *table) write(to *strings.Builder) {
	if t.changes() == 0 {
		return
	}
	dirty, gone := keys(t.dirty), keys(t.gone)
	to.WriteString("*" + t.name + "\n")
	for _, c := range slices.Concat(dirty, gone) {
		to.WriteString(":" + c + " - [0:0]\n")
	}
	for _, c := range dirty {
		t.dirty[c].write(to, c)
	}
	for _, c := range gone {
		to.WriteString("-X " + c + "\n")
	}
	to.WriteString("COMMIT\n")
}

// written says that the kernel took it.
func (t *table) written() {
	for c := range t.dirty {
		t.have[c] = t.want[c].fingerprint
	}
	for c := range t.gone {
		delete(t.have, c)
	}
	clear(t.dirty)
	clear(t.gone)
}

func keys[V any](m map[string]V) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}
