package bridge_test

import (
	"testing"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// TestKernel proves on the real kernel what the bridge has to keep when ports join: MAC and MTU; and that a second Apply does nothing.
func TestKernel(t *testing.T) {
	for _, mtu := range []int{1450, 1500, 9000, 0} {
		conn := rtnltest.NewNetns(t).Conn(t)
		r := bridge.New(conn, bridge.Options{})
		want := dual
		want.MTU = mtu
		if _, err := r.Apply(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		settled := func(when string) {
			t.Helper()
			if p, err := r.Apply(t.Context(), want); err != nil || !p.Empty() {
				t.Errorf("MTU %d, %s: Apply did\n%v%v; want nothing", mtu, when, p, err)
			}
		}
		settled("new")
		addrs, err := conn.Addrs(t.Context(), "cni0")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if a.Tentative || a.DADFailed {
				t.Errorf("%s is not usable", a)
			}
		}
		// The lowest MAC there is, and a smaller MTU.
		port := rtnl.Link{Name: "port", Kind: rtnl.KindVeth, MAC: rtnl.MAC{2, 0, 0, 0, 0, 1}, MTU: 1400, Master: "cni0", Up: rtnl.On, Veth: rtnl.Veth{Peer: "other"}}
		if errs := conn.Write(t.Context(), rtnl.Plan{{Verb: rtnl.Add, Object: port}}); errs != nil {
			t.Fatal(errs[0])
		}
		if mtu != 1500 { // that is what the kernel takes for "not set by anybody"
			settled("port joined")
		} else if _, err := r.Apply(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if errs := conn.Write(t.Context(), rtnl.Plan{{Verb: rtnl.Delete, Object: rtnl.Link{Name: "port"}}}); errs != nil {
			t.Fatal(errs[0])
		}
		settled("port left")
		l, err := conn.Link(t.Context(), "cni0")
		if err != nil || l.MAC != want.HardwareAddr() || mtu != 0 && l.MTU != mtu {
			t.Errorf("%s, %v; want MAC %s, MTU %d", l, err, want.HardwareAddr(), mtu)
		}
	}
}

// TestKernelStates runs the table of the fake on the real kernel: the same plans, the same second Apply.
func TestKernelStates(t *testing.T) {
	for _, c := range states {
		t.Run(c.name, func(t *testing.T) {
			conn := rtnltest.NewNetns(t).Conn(t)
			r := bridge.New(conn, bridge.Options{})
			for _, b := range c.before {
				if _, err := r.Apply(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			others, err := rtnltest.ParsePlan(c.others)
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range conn.Write(t.Context(), others) {
				if err != nil {
					t.Fatal(err)
				}
			}
			if _, err := r.Apply(t.Context(), c.want); (err != nil) != (c.err != "") {
				t.Fatalf("Apply = %v; want %q", err, c.err)
			}
			if c.err != "" {
				return
			}
			if p, err := r.Apply(t.Context(), c.want); err != nil || !p.Empty() {
				t.Errorf("the second Apply did\n%v%v; want nothing", p, err)
			}
		})
	}
}
