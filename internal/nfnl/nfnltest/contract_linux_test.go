package nfnltest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// kernel is what the fake and the real one have in common.
type kernel interface {
	Genid(context.Context) (uint32, error)
	Describe(context.Context, nfnl.Table) (nfnl.Description, error)
	Elements(context.Context, nfnl.Table, string, func(), func(nfnl.Element)) error
	Commit(context.Context, *nfnl.Transaction) error
	Try(context.Context, *nfnl.Transaction) error
	Watch(context.Context, func(nfnl.Event)) error
	Own(context.Context, *nfnl.Transaction) (func() error, error)
}

var (
	_ kernel = (*Conn)(nil)
	_ kernel = (*nfnl.Conn)(nil)
)

// both runs a test on the fake and on the real kernel.
func both(t *testing.T, f func(t *testing.T, open func() kernel)) {
	t.Run("fake", func(t *testing.T) {
		k := &Kernel{}
		f(t, func() kernel { return k.Open() })
	})
	t.Run("real", func(t *testing.T) {
		ns := rtnltest.NewNetns(t)
		f(t, func() kernel {
			c, err := nfnl.Open(nfnl.Options{Netns: ns.Path()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		})
	})
}

var (
	tab  = nfnl.Table{Family: nfnl.IPv4, Name: "tab"}
	nums = nfnl.Set{Name: "nums", Key: nfnl.TypeMark, Data: nfnl.Concat(nfnl.TypeAddr4, nfnl.TypePort)}
	list = nfnl.Set{Name: "list", Key: nfnl.Concat(nfnl.TypeAddr4, nfnl.TypePort)}
	vmap = nfnl.Set{Name: "vmap", Key: nfnl.TypeMark, Data: nfnl.TypeVerdict}
	dyn  = nfnl.Set{Name: "dyn", Key: nfnl.TypeMark, Data: nfnl.TypeMark, Timeout: true, Dynamic: true, Size: 10}
	two  = nfnl.Set{Name: "two", Key: nfnl.TypeMark, Size: 2}
)

// layout is the state that each case begins with.
func layout(tx *nfnl.Transaction) {
	tx.AddTable(tab)
	for _, s := range []nfnl.Set{nums, list, vmap, dyn, two} {
		tx.AddSet(tab, s)
	}
	tx.AddChain(tab, nfnl.Chain{Name: "base", Type: "nat", Hook: nfnl.Prerouting, Priority: -100})
	tx.AddChain(tab, nfnl.Chain{Name: "used"})
	tx.AddChain(tab, nfnl.Chain{Name: "free"})
	tx.AddRule(tab, nfnl.Rule{Chain: "base", Comment: "jump", Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "used"}}})
	tx.AddRule(tab, nfnl.Rule{Chain: "used", Comment: "look", Exprs: []expr.Any{number4(8), &expr.Lookup{SourceRegister: 8, SetName: "two"}}})
	tx.AddElement(tab, "nums", nfnl.Element{Key: mark(1), Data: []byte{10, 0, 0, 1, 0, 80, 0, 0}})
	tx.AddElement(tab, "vmap", nfnl.Element{Key: mark(1), Verdict: nfnl.Verdict{Kind: nfnl.Goto, Chain: "free"}})
}

func mark(n uint32) []byte { return native(n) }

func number4(register uint32) expr.Any { return &expr.Immediate{Register: register, Data: native(1)} }

func free(exprs ...expr.Any) nfnl.Rule { return nfnl.Rule{Chain: "free", Exprs: exprs} }

func endpoint(n byte) []byte { return []byte{10, 0, 0, n, 0, 80, 0, 0} }

// facts are transactions on the layout and what the kernel answers, seen on Linux 6.18. "" is success.
var facts = []struct {
	name string
	do   func(*nfnl.Transaction)
	want string
}{
	{"table again", func(tx *nfnl.Transaction) { tx.AddTable(tab) }, ""},
	{"missing table", func(tx *nfnl.Transaction) { tx.DeleteTable(nfnl.Table{Family: nfnl.IPv4, Name: "none"}) }, "delete table none: ENOENT"},
	{"table of the other family", func(tx *nfnl.Transaction) { tx.AddSet(nfnl.Table{Family: nfnl.IPv6, Name: "tab"}, nums) }, "add set nums: ENOENT"},
	{"chain again", func(tx *nfnl.Transaction) { tx.AddChain(tab, nfnl.Chain{Name: "used"}) }, ""},
	{"base chain again", func(tx *nfnl.Transaction) {
		tx.AddChain(tab, nfnl.Chain{Name: "base", Type: "nat", Hook: nfnl.Prerouting, Priority: -100})
	}, ""},
	{"base chain with another priority", func(tx *nfnl.Transaction) {
		tx.AddChain(tab, nfnl.Chain{Name: "base", Type: "nat", Hook: nfnl.Prerouting, Priority: -90})
	}, "add chain base: ENOTSUP"},
	{"chain that becomes a base chain", func(tx *nfnl.Transaction) {
		tx.AddChain(tab, nfnl.Chain{Name: "free", Type: "nat", Hook: nfnl.Prerouting, Priority: -100})
	}, "add chain free: ENOTSUP"},
	{"missing chain", func(tx *nfnl.Transaction) { tx.DeleteChain(tab, "none") }, "delete chain none: ENOENT"},
	{"chain that a rule leads to", func(tx *nfnl.Transaction) { tx.DeleteChain(tab, "used") }, "delete chain used: EBUSY"},
	{"chain that an element leads to", func(tx *nfnl.Transaction) { tx.DeleteChain(tab, "free") }, "delete chain free: EBUSY"},
	{"chain with the element that leads to it", func(tx *nfnl.Transaction) { // before 6.2 EBUSY
		tx.DeleteElement(tab, "vmap", nfnl.Element{Key: mark(1)})
		tx.DeleteChain(tab, "free")
	}, ""},
	{"rules of a missing chain", func(tx *nfnl.Transaction) { tx.FlushChain(tab, "none") }, "delete rules of chain none: ENOENT"},
	{"rule for a missing chain", func(tx *nfnl.Transaction) { tx.AddRule(tab, nfnl.Rule{Chain: "none", Exprs: []expr.Any{number4(8)}}) }, "add rule of chain none: ENOENT"},
	{"goto a missing chain", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(&expr.Verdict{Kind: expr.VerdictGoto, Chain: "none"}))
	}, "add rule of chain free: ENOENT"},
	{"goto a base chain", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(&expr.Verdict{Kind: expr.VerdictGoto, Chain: "base"}))
	}, "add rule of chain free: ENOTSUP"},
	{"register that nobody wrote", func(tx *nfnl.Transaction) { // since 6.11
		tx.AddRule(tab, free(&expr.Cmp{Op: expr.CmpOpEq, Register: 9, Data: mark(1)}))
	}, "add rule of chain free: ENODATA"},
	{"key that is written in part", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(number4(8), &expr.Lookup{SourceRegister: 8, SetName: "list"}))
	}, "add rule of chain free: ENODATA"},
	{"lookup in a missing set", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(number4(8), &expr.Lookup{SourceRegister: 8, SetName: "none"}))
	}, "add rule of chain free: ENOENT"},
	{"map without a destination", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(number4(8), &expr.Lookup{SourceRegister: 8, SetName: "nums"}))
	}, ""},
	{"set with a destination", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(number4(8), &expr.Lookup{SourceRegister: 8, SetName: "two", DestRegister: 9, IsDestRegSet: true}))
	}, "add rule of chain free: EINVAL"},
	{"map over its own key", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(number4(8), &expr.Lookup{SourceRegister: 8, SetName: "nums", DestRegister: 8, IsDestRegSet: true}))
	}, ""},
	{"map behind the last register", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(number4(8), &expr.Lookup{SourceRegister: 8, SetName: "nums", DestRegister: 23, IsDestRegSet: true}))
	}, "add rule of chain free: ERANGE"},
	{"verdicts into a register", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(number4(8), &expr.Lookup{SourceRegister: 8, SetName: "vmap", DestRegister: 9, IsDestRegSet: true}))
	}, "add rule of chain free: EINVAL"},
	{"numgen of nothing", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(&expr.Numgen{Register: 8, Type: unix.NFT_NG_RANDOM}))
	}, "add rule of chain free: ERANGE"},
	{"numgen beyond 32 bits", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(&expr.Numgen{Register: 8, Modulus: 2, Offset: 0xffffffff, Type: unix.NFT_NG_RANDOM}))
	}, "add rule of chain free: EOVERFLOW"},
	{"dynset on a set that is not dynamic", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(number4(8), &expr.Dynset{SrcRegKey: 8, SetName: "two"}))
	}, "add rule of chain free: ENOTSUP"},
	{"dynset without data", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(number4(8), &expr.Dynset{SrcRegKey: 8, SetName: "dyn", Operation: 2}))
	}, "add rule of chain free: EINVAL"},
	{"dynset", func(tx *nfnl.Transaction) {
		tx.AddRule(tab, free(number4(8), &expr.Dynset{SrcRegKey: 8, SrcRegData: 8, SetName: "dyn", Operation: 2, Timeout: time.Minute}))
	}, ""},
	{"set again", func(tx *nfnl.Transaction) { tx.AddSet(tab, nums) }, ""},
	{"set with another type", func(tx *nfnl.Transaction) { tx.AddSet(tab, nfnl.Set{Name: "nums", Key: nfnl.TypeAddr4}) }, "add set nums: EEXIST"},
	{"missing set", func(tx *nfnl.Transaction) { tx.DeleteSet(tab, "none") }, "delete set none: ENOENT"},
	{"set that a rule uses", func(tx *nfnl.Transaction) { tx.DeleteSet(tab, "two") }, "delete set two: EBUSY"},
	{"set with the rule that uses it", func(tx *nfnl.Transaction) { tx.FlushChain(tab, "used"); tx.DeleteSet(tab, "two") }, ""},
	{"element again", func(tx *nfnl.Transaction) { tx.AddElement(tab, "nums", nfnl.Element{Key: mark(1), Data: endpoint(1)}) }, ""},
	{"element with other data", func(tx *nfnl.Transaction) { tx.AddElement(tab, "nums", nfnl.Element{Key: mark(1), Data: endpoint(2)}) }, "add element of nums 01000000: EEXIST"},
	{"element replaced", func(tx *nfnl.Transaction) {
		tx.DeleteElement(tab, "nums", nfnl.Element{Key: mark(1)})
		tx.AddElement(tab, "nums", nfnl.Element{Key: mark(1), Data: endpoint(2)})
	}, ""},
	{"element with a short key", func(tx *nfnl.Transaction) { tx.AddElement(tab, "list", nfnl.Element{Key: mark(1)}) }, "add element of list 01000000: EINVAL"},
	{"element with a long key", func(tx *nfnl.Transaction) { tx.AddElement(tab, "two", nfnl.Element{Key: endpoint(1)}) }, "add element of two 0a00000100500000: EINVAL"},
	{"element of a map without data", func(tx *nfnl.Transaction) { tx.AddElement(tab, "nums", nfnl.Element{Key: mark(2)}) }, "add element of nums 02000000: EINVAL"},
	{"element of a set with data", func(tx *nfnl.Transaction) { tx.AddElement(tab, "two", nfnl.Element{Key: mark(2), Data: mark(1)}) }, "add element of two 02000000: EINVAL"},
	{"element that leads nowhere", func(tx *nfnl.Transaction) {
		tx.AddElement(tab, "vmap", nfnl.Element{Key: mark(2), Verdict: nfnl.Verdict{Kind: nfnl.Goto, Chain: "none"}})
	}, "add element of vmap 02000000: ENOENT"},
	{"element with a timeout in a set without", func(tx *nfnl.Transaction) {
		tx.AddElement(tab, "two", nfnl.Element{Key: mark(2), Timeout: time.Minute})
	}, "add element of two 02000000: EINVAL"},
	{"missing element", func(tx *nfnl.Transaction) { tx.DeleteElement(tab, "nums", nfnl.Element{Key: mark(2)}) }, "delete element of nums 02000000: ENOENT"},
	{"more than the size", func(tx *nfnl.Transaction) {
		for i := range uint32(3) {
			tx.AddElement(tab, "two", nfnl.Element{Key: mark(i)})
		}
	}, "add element of two 02000000: ENFILE"},
	{"elements of a missing set", func(tx *nfnl.Transaction) { tx.AddElement(tab, "none", nfnl.Element{Key: mark(1)}) }, "add element of none: ENOENT"},
	{"flush", func(tx *nfnl.Transaction) { tx.FlushSet(tab, "nums") }, ""},
	{"several refusals", func(tx *nfnl.Transaction) {
		tx.DeleteChain(tab, "none")
		tx.AddElement(tab, "two", nfnl.Element{Key: mark(0)})
		tx.AddElement(tab, "two", nfnl.Element{Key: endpoint(1)})
		tx.AddElement(tab, "nums", nfnl.Element{Key: mark(1), Data: endpoint(2)})
	}, "add element of nums 01000000: EEXIST; add element of two 0a00000100500000: EINVAL; delete chain none: ENOENT"},
	{"name of 255 bytes", func(tx *nfnl.Transaction) { tx.AddChain(tab, nfnl.Chain{Name: strings.Repeat("a", 255)}) }, ""},
	{"name of 256 bytes", func(tx *nfnl.Transaction) { tx.AddChain(tab, nfnl.Chain{Name: strings.Repeat("a", 256)}) }, "add chain " + strings.Repeat("a", 256) + ": ERANGE"},
}

// newer are the facts to which Linux 6.1 answers otherwise: of real kernels only those from 6.11 on are asked.
var newer = map[string]bool{
	"base chain with another priority": true, "register that nobody wrote": true, "key that is written in part": true, "map without a destination": true,
}

// TestFacts: the fake and the real kernel give the same answers, and are the same afterwards.
func TestFacts(t *testing.T) {
	for _, f := range facts {
		t.Run(f.name, func(t *testing.T) {
			after := map[string]string{}
			both(t, func(t *testing.T, open func() kernel) {
				if newer[f.name] && strings.HasSuffix(t.Name(), "/real") && older(t, 6, 11) {
					t.Skip("this kernel answers otherwise")
				}
				k := open()
				var tx nfnl.Transaction
				layout(&tx)
				if err := k.Commit(t.Context(), &tx); err != nil {
					t.Fatal(err)
				}
				before := dump(t, k)
				tx.Reset()
				f.do(&tx)
				if got := short(k.Try(t.Context(), &tx)); got != f.want {
					t.Errorf("tried: got %q, want %q", got, f.want)
				}
				if diff := cmp.Diff(before, dump(t, k)); diff != "" {
					t.Error("a transaction that was only tried changed something:", diff)
				}
				tx.Reset()
				f.do(&tx)
				if got := short(k.Commit(t.Context(), &tx)); got != f.want {
					t.Errorf("got %q, want %q", got, f.want)
				}
				if diff := cmp.Diff(before, dump(t, k)); f.want != "" && diff != "" {
					t.Error("a refused transaction changed something:", diff)
				}
				after[t.Name()] = dump(t, k)
			})
			var all []string
			for _, d := range after {
				all = append(all, d)
			}
			if len(all) == 2 && all[0] != all[1] {
				t.Error("fake and real differ:", cmp.Diff(all[0], all[1]))
			}
		})
	}
}

// older reports whether the kernel is older than a version.
func older(t *testing.T, major, minor int) bool {
	var u unix.Utsname
	var have [2]int
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &have[0], &have[1]); err != nil {
		t.Fatal(err)
	}
	return slices.Compare(have[:], []int{major, minor}) < 0
}

// short reduces an error to what the facts say.
func short(err error) string {
	var refused nfnl.Refused
	if err == nil {
		return ""
	}
	if !errors.As(err, &refused) {
		return err.Error()
	}
	var all []string
	for _, e := range refused {
		s := e.Op
		if e.Key != nil {
			s += fmt.Sprintf(" %x", e.Key)
		}
		all = append(all, s+": "+unix.ErrnoName(e.Errno))
	}
	return strings.Join(all, "; ")
}

// dump tells all of the table that does not depend on order and time.
func dump(t *testing.T, k kernel) string {
	t.Helper()
	d, err := k.Describe(t.Context(), tab)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range d.Chains {
		lines = append(lines, fmt.Sprintf("chain %+v", c))
	}
	for _, r := range d.Rules {
		lines = append(lines, fmt.Sprintf("rule of %s %q", r.Chain, r.Comment))
	}
	for _, s := range d.Sets {
		lines = append(lines, fmt.Sprintf("set %+v", s))
		err := k.Elements(t.Context(), tab, s.Name, func() {}, func(x nfnl.Element) {
			lines = append(lines, fmt.Sprintf("element of %s %x %x %v", s.Name, x.Key, x.Data, x.Verdict))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestGenid: each commit that changes something counts one, whoever makes it, and nothing else does.
func TestGenid(t *testing.T) {
	both(t, func(t *testing.T, open func() kernel) {
		a, b := open(), open()
		var tx nfnl.Transaction
		layout(&tx)
		if err := a.Commit(t.Context(), &tx); err != nil {
			t.Fatal(err)
		}
		was, err := a.Genid(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			name   string
			k      kernel
			do     func(*nfnl.Transaction)
			counts uint32
		}{
			{"nothing", a, func(*nfnl.Transaction) {}, 0},
			{"table that is there", a, func(tx *nfnl.Transaction) { tx.AddTable(tab) }, 0},
			{"set that is there", a, func(tx *nfnl.Transaction) { tx.AddSet(tab, nums) }, 1},
			{"element that is there", a, func(tx *nfnl.Transaction) { tx.AddElement(tab, "nums", nfnl.Element{Key: mark(1), Data: endpoint(1)}) }, 0},
			{"element", b, func(tx *nfnl.Transaction) { tx.AddElement(tab, "nums", nfnl.Element{Key: mark(2), Data: endpoint(1)}) }, 1},
			{"elements", a, func(tx *nfnl.Transaction) {
				tx.AddElement(tab, "nums", nfnl.Element{Key: mark(3), Data: endpoint(1)})
				tx.AddElement(tab, "two", nfnl.Element{Key: mark(3)})
			}, 1},
			{"refused", a, func(tx *nfnl.Transaction) { tx.DeleteChain(tab, "none") }, 0},
		} {
			var tx nfnl.Transaction
			step.do(&tx)
			_ = step.k.Try(t.Context(), &tx)
			_ = step.k.Commit(t.Context(), &tx)
			n, err := a.Genid(t.Context())
			if err != nil || n != was+step.counts {
				t.Errorf("%s: counted %d, want %d: %v", step.name, n-was, step.counts, err)
			}
			was = n
		}
	})
}

// TestWatch: others' changes are told, own ones are not.
func TestWatch(t *testing.T) {
	both(t, func(t *testing.T, open func() kernel) {
		mine, other := open(), open()
		ctx, cancel := context.WithCancel(t.Context())
		events := make(chan nfnl.Event, 100)
		done := make(chan error)
		go func() { done <- mine.Watch(ctx, func(e nfnl.Event) { events <- e }) }()
		if e := <-events; e.Table != (nfnl.Table{}) {
			t.Errorf("first event %v", e)
		}
		own := nfnl.Table{Family: nfnl.IPv6, Name: "own"}
		for i, name := range []nfnl.Table{own, tab, own, own, tab} {
			var tx nfnl.Transaction
			tx.AddTable(name)
			tx.AddChain(name, nfnl.Chain{Name: fmt.Sprint("c", i)})
			k := mine
			if name == tab {
				k = other
			}
			if err := k.Commit(t.Context(), &tx); err != nil {
				t.Fatal(err)
			}
			if name == tab {
				if e := <-events; e.Table != tab && e.Table != (nfnl.Table{}) {
					t.Errorf("event %v", e)
				}
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch = %v", err)
		}
		close(events)
		for e := range events {
			if e.Table == own {
				t.Errorf("told of an own change")
			}
		}
	})
}

// TestHoldNAT: an owned table is nobody else's, and goes with its owner.
func TestHoldNAT(t *testing.T) {
	both(t, func(t *testing.T, open func() kernel) {
		mine, other := open(), open()
		hold := func(k kernel) (func(), error) {
			var failed error
			release := nfnl.HoldNAT(t.Context(), k, []nfnl.Table{tab}, func(_ nfnl.Table, id uint32, err error) {
				if now, e := other.Genid(t.Context()); err == nil && id != now || e != nil {
					t.Errorf("genid %d, want %d: %v", id, now, e)
				}
				failed = err
			})
			return release, failed
		}
		release, err := hold(mine)
		if err != nil {
			t.Fatal(err)
		}
		for name, k := range map[string]kernel{"the same Conn": mine, "another": other} {
			for what, do := range map[string]func(*nfnl.Transaction){
				"delete": func(tx *nfnl.Transaction) { tx.DeleteTable(tab) },
				"add":    func(tx *nfnl.Transaction) { tx.AddTable(tab) },
				"chain":  func(tx *nfnl.Transaction) { tx.AddChain(tab, nfnl.Chain{Name: "x"}) },
				"flush":  func(tx *nfnl.Transaction) { tx.FlushChain(tab, "hold") },
			} {
				var tx nfnl.Transaction
				do(&tx)
				if err := k.Commit(t.Context(), &tx); !errors.Is(err, unix.EPERM) {
					t.Errorf("%s by %s: %v, want EPERM", what, name, err)
				}
			}
			if _, err := hold(k); !errors.Is(err, unix.EPERM) {
				t.Errorf("held twice by %s: %v, want EPERM", name, err)
			}
		}
		d, err := other.Describe(t.Context(), tab)
		if err != nil || len(d.Chains) != 1 || len(d.Rules) != 1 {
			t.Errorf("%+v, %v", d, err)
		}
		release()
		if d, err := other.Describe(t.Context(), tab); err != nil || d.Exists {
			t.Errorf("after its owner: %+v, %v", d, err)
		}
		if release, err := hold(other); err != nil {
			t.Error(err)
		} else {
			release()
		}
	})
}
