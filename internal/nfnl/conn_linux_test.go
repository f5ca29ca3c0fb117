package nfnl

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/rtnl/rtnltest"
)

var table = Table{IPv4, "test"}

func open(t testing.TB, ns *rtnltest.Netns) *Conn {
	t.Helper()
	c, err := Open(Options{Netns: ns.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func commit(t testing.TB, c *Conn, f func(*Transaction)) {
	t.Helper()
	var tx Transaction
	f(&tx)
	if err := c.Commit(t.Context(), &tx); err != nil {
		t.Fatal(err)
	}
}

var marks = Set{Name: "marks", Key: TypeMark, Data: Concat(TypeAddr4, TypePort)}

func mark(n int) Element {
	return Element{Key: binary.NativeEndian.AppendUint32(nil, uint32(n)), Data: []byte{10, byte(n >> 16), byte(n >> 8), byte(n), 0, 80, 0, 0}}
}

var (
	chains = []Chain{{Name: "prerouting", Type: "nat", Hook: Prerouting, Priority: -100}, {Name: "to"}}
	sets   = []Set{
		marks,
		{Name: "plain", Key: Concat(TypeAddr4, TypeProto, TypePort)},
		{Name: "verdicts", Key: TypeMark, Data: TypeVerdict},
		{Name: "dynamic", Key: TypeAddr4, Timeout: true, Dynamic: true, Size: 100},
		{Name: "ranges", Key: TypeAddr4, Interval: true},
	}
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	c := open(t, ns)
	commit(t, c, func(tx *Transaction) {
		tx.AddTable(table)
		for _, s := range sets {
			tx.AddSet(table, s)
		}
		for _, ch := range chains {
			tx.AddChain(table, ch)
		}
		tx.AddRule(table, Rule{Chain: "to", Comment: "first", Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
		tx.AddRule(table, Rule{Chain: "to", Comment: "second", Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		tx.AddElement(table, "marks", mark(1))
		tx.AddElement(table, "verdicts", Element{Key: []byte{1, 0, 0, 0}, Verdict: Verdict{Goto, "to"}})
		tx.AddElement(table, "verdicts", Element{Key: []byte{2, 0, 0, 0}, Verdict: Verdict{Kind: Drop}})
		tx.AddElement(table, "dynamic", Element{Key: []byte{10, 0, 0, 1}, Timeout: time.Hour})
		tx.AddElement(table, "ranges", Element{Key: []byte{10, 0, 0, 0}})
		tx.AddElement(table, "ranges", Element{Key: []byte{11, 0, 0, 0}, IntervalEnd: true})
	})
	gotChains, err := c.Chains(t.Context(), table)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(chains, gotChains); diff != "" {
		t.Error("chains:", diff)
	}
	gotSets, err := c.Sets(t.Context(), table)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sets, gotSets); diff != "" {
		t.Error("sets:", diff)
	}
	rules, err := c.Rules(t.Context(), table)
	if err != nil {
		t.Fatal(err)
	}
	if len(rules) != 2 || rules[0].Comment != "first" || rules[1].Comment != "second" || rules[0].Handle == 0 {
		t.Errorf("rules: %+v", rules)
	}
	want := []Element{{Key: []byte{1, 0, 0, 0}, Verdict: Verdict{Goto, "to"}}, {Key: []byte{2, 0, 0, 0}, Verdict: Verdict{Kind: Drop}}}
	if diff := cmp.Diff(want, elements(t, c, "verdicts"), byKey); diff != "" {
		t.Error("verdicts:", diff)
	}
	if got := elements(t, c, "dynamic"); len(got) != 1 || got[0].Timeout != time.Hour || got[0].Expires > time.Hour || got[0].Expires < time.Hour-time.Minute {
		t.Errorf("dynamic: %+v", got)
	}
	out, err := exec.Command("ip", "netns", "exec", ns.Name(), "nft", "list", "table", "ip", "test").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("elements = { 0x00000001 : 10.0.0.1 . 80 }")) {
		t.Errorf("nft shows: %s %v", out, err)
	}
}

var byKey = cmp.Transformer("sort", func(all []Element) map[string]Element {
	m := map[string]Element{}
	for _, x := range all {
		m[fmt.Sprintf("%x", x.Key)] = Element{Data: x.Data, Verdict: x.Verdict}
	}
	return m
})

func elements(t testing.TB, c *Conn, set string) []Element {
	t.Helper()
	var all []Element
	err := c.Elements(t.Context(), table, set, func() { all = nil }, func(x Element) {
		x.Key, x.Data = bytes.Clone(x.Key), bytes.Clone(x.Data)
		all = append(all, x)
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestElementsAreReplacedInOneTransaction(t *testing.T) {
	c := open(t, rtnltest.NewNetns(t))
	commit(t, c, func(tx *Transaction) {
		tx.AddTable(table)
		tx.AddSet(table, marks)
		tx.AddElement(table, "marks", mark(1))
	})
	other := mark(1)
	other.Data = mark(2).Data
	commit(t, c, func(tx *Transaction) {
		tx.AddElement(table, "marks", other) // the order of calls does not matter
		tx.DeleteElement(table, "marks", mark(1))
	})
	if diff := cmp.Diff([]Element{other}, elements(t, c, "marks"), byKey); diff != "" {
		t.Error(diff)
	}
}

func TestRefusedChangeIsNamed(t *testing.T) {
	c := open(t, rtnltest.NewNetns(t))
	commit(t, c, func(tx *Transaction) {
		tx.AddTable(table)
		tx.AddSet(table, marks)
		tx.AddElement(table, "marks", mark(4321))
	})
	for _, bad := range []int{0, 1, 777, 1999, 4999} {
		var tx Transaction
		for i := range 5000 {
			tx.Tag = i
			x := mark(i)
			if i == bad {
				x = mark(4321)
				x.Data = x.Data[:4]
			}
			if i != 4321 {
				tx.AddElement(table, "marks", x)
			}
		}
		err := c.Commit(t.Context(), &tx)
		var r Refused
		if !errors.As(err, &r) || len(r) != 1 || r[0].Tag != bad || !bytes.Equal(r[0].Key, mark(4321).Key) || !errors.Is(err, unix.EINVAL) {
			t.Errorf("element %d: %v", bad, err)
		}
	}
	if got := elements(t, c, "marks"); len(got) != 1 {
		t.Errorf("%d elements after refused transactions", len(got))
	}
}

func TestRefusedObjectIsNamed(t *testing.T) {
	c := open(t, rtnltest.NewNetns(t))
	var tx Transaction
	tx.Tag = 1
	tx.AddTable(table)
	tx.AddSet(table, marks)
	tx.Tag = 2
	tx.DeleteChain(table, "missing")
	tx.Tag = 3
	tx.AddElement(table, "marks", mark(3))
	err := c.Commit(t.Context(), &tx)
	var r Refused
	if !errors.As(err, &r) || len(r) != 1 || r[0].Tag != 2 || !errors.Is(err, fs.ErrNotExist) || r[0].Op != "delete chain missing" {
		t.Errorf("%v", err)
	}
}

func TestEmptyAndLargeTransactions(t *testing.T) {
	c := open(t, rtnltest.NewNetns(t))
	commit(t, c, func(*Transaction) {})
	const n = 50_000
	commit(t, c, func(tx *Transaction) {
		tx.AddTable(table)
		tx.AddSet(table, marks)
		for i := range n {
			tx.AddElement(table, "marks", mark(i))
		}
		if tx.Len() != n+2 || tx.Size() < n*32 {
			t.Errorf("Len %d, Size %d", tx.Len(), tx.Size())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; {
		seen := map[string]bool{}
		err := c.Elements(t.Context(), table, "marks", func() { clear(seen) }, func(x Element) { seen[string(x.Key)] = true })
		if err == nil && len(seen) == n {
			break
		}
		if err != nil || time.Now().After(deadline) { // until then the kernel's table grows
			t.Fatalf("%d elements: %v", len(seen), err)
		}
	}
}

func TestMissing(t *testing.T) {
	c := open(t, rtnltest.NewNetns(t))
	if err := c.Elements(t.Context(), table, "marks", func() {}, func(Element) {}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("elements of a missing set: %v", err)
	}
	for range 2 {
		if all, err := c.Sets(t.Context(), table); err != nil || len(all) != 0 {
			t.Errorf("sets of a missing table: %v, %v", all, err)
		}
		if all, err := c.Rules(t.Context(), table); err != nil || len(all) != 0 {
			t.Errorf("rules of a missing table: %v, %v", all, err)
		}
		if all, err := c.Chains(t.Context(), table); err != nil || len(all) != 0 {
			t.Errorf("chains of a missing table: %v, %v", all, err)
		}
		if all, err := c.Tables(t.Context(), IPv4); err != nil || len(all) != 0 {
			t.Errorf("tables: %v, %v", all, err)
		}
		commit(t, c, func(tx *Transaction) {
			tx.AddTable(table)
			tx.DeleteTable(table)
		})
	}
}

func TestWatchTellsOfOthersOnly(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	c, other := open(t, ns), open(t, ns)
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan Event, 10_000)
	done := make(chan error)
	go func() { done <- c.Watch(ctx, func(e Event) { events <- e }) }()
	if e := <-events; e.Table != (Table{}) {
		t.Errorf("first event %v", e)
	}
	commit(t, c, func(tx *Transaction) {
		tx.AddTable(table)
		tx.AddSet(table, marks)
	})
	foreign := Table{IPv4, "foreign"}
	for i := range 100 {
		commit(t, c, func(tx *Transaction) { tx.AddElement(table, "marks", mark(i)) })
		if i%10 == 0 {
			commit(t, other, func(tx *Transaction) { tx.AddTable(foreign); tx.DeleteTable(foreign) })
		}
	}
	commit(t, other, func(tx *Transaction) { tx.DeleteElement(table, "marks", mark(7)) })
	for e := range events {
		if e.Table == table {
			break
		}
		if e.Table != foreign && e.Table != (Table{}) {
			t.Errorf("event about %v", e)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch = %v", err)
	}
	commit(t, c, func(tx *Transaction) { tx.AddElement(table, "marks", mark(7)) })
}

func TestCommitTellsItsNumber(t *testing.T) {
	c := open(t, rtnltest.NewNetns(t))
	for _, step := range []struct {
		name string
		add  func(*Transaction)
		none bool
	}{
		{name: "table", add: func(tx *Transaction) { tx.AddTable(table); tx.AddSet(table, marks) }},
		{name: "elements", add: func(tx *Transaction) {
			for i := range 3000 { // more than the socket would take if each came back
				tx.AddElement(table, "marks", mark(i))
			}
		}},
		{name: "the same", add: func(tx *Transaction) { tx.AddElement(table, "marks", mark(7)) }, none: true},
		{name: "one goes", add: func(tx *Transaction) { tx.DeleteElement(table, "marks", mark(7)) }},
		{name: "table goes", add: func(tx *Transaction) { tx.DeleteTable(table) }},
	} {
		var tx Transaction
		step.add(&tx)
		if err := c.Commit(t.Context(), &tx); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		now, err := c.Genid(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if step.none {
			now = 0
		}
		if tx.Genid() != now {
			t.Errorf("%s: number %d, want %d", step.name, tx.Genid(), now)
		}
	}
}

func TestClosed(t *testing.T) {
	c := open(t, rtnltest.NewNetns(t))
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	var tx Transaction
	tx.AddTable(table)
	if err := c.Commit(t.Context(), &tx); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Commit = %v", err)
	}
}

// TestTooLarge: without the privilege for large buffers, a transaction is refused as a whole before the kernel sees it.
func TestTooLarge(t *testing.T) {
	c := open(t, rtnltest.NewNetns(t))
	if err := unix.SetsockoptInt(c.s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 100_000); err != nil {
		t.Fatal(err)
	}
	c.s.snd = 1 << 30 // does not ask for more
	var tx Transaction
	tx.AddTable(table)
	tx.AddSet(table, marks)
	for i := range 50_000 {
		tx.AddElement(table, "marks", mark(i))
	}
	if err := c.Commit(t.Context(), &tx); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Commit = %v", err)
	}
	if all, err := c.Tables(t.Context(), IPv4); err != nil || len(all) != 0 {
		t.Errorf("tables afterwards: %v, %v", all, err)
	}
	commit(t, c, func(tx *Transaction) { tx.AddTable(table) })
}

// TestLostAnswers: more refusals than the receive buffer holds are still a refusal, and the next transaction gets its own answer.
func TestLostAnswers(t *testing.T) {
	c := open(t, rtnltest.NewNetns(t))
	if err := unix.SetsockoptInt(c.s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var tx Transaction
		tx.AddTable(table)
		for i := range 5000 {
			tx.DeleteChain(table, fmt.Sprint("none", i))
		}
		if err := c.Commit(t.Context(), &tx); err == nil {
			t.Error("a refused transaction succeeded")
		}
		commit(t, c, func(tx *Transaction) { tx.AddTable(table) })
	}
}
