package rtnl_test

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"github.com/podnet/podnet/rtnl"
)

// Every failed message of a chunk has an answer of its own: none may get lost, however small the receive buffer is.
func TestWriteAllFail(t *testing.T) {
	for _, tt := range []struct {
		name   string
		buffer int // 0: as opened
	}{{"as opened", 0}, {"unprivileged", 212992}, {"tiny", 4096}} {
		t.Run(tt.name, func(t *testing.T) {
			_, c := vxlanNetns(t)
			c.SetChunk(1 << 20)
			if tt.buffer != 0 {
				if err := c.ShrinkAnswers(tt.buffer); err != nil {
					t.Fatal(err)
				}
			}
			const n = 5000
			var plan rtnl.Plan
			for i := range n {
				inner, _, _, podCIDR := peer(i)
				plan = append(plan, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: podCIDR, Gateway: inner, Link: "vx", Onlink: i%2 == 0}})
			}
			plan = append(plan, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "vx", Prefix: netip.MustParsePrefix("10.0.0.1/32")}})
			errs := c.Write(t.Context(), plan)
			if len(errs) != len(plan) {
				t.Fatalf("%d errors for %d changes", len(errs), len(plan))
			}
			for i, err := range errs[:n] {
				if i%2 == 0 && err != nil || i%2 == 1 && !errors.Is(err, syscall.ENETUNREACH) {
					t.Fatalf("%v: error %v", plan[i], err)
				}
			}
			if errs[n] != nil {
				t.Error(errs[n])
			}
		})
	}
}
