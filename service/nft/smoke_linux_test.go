package nft

import (
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/servicetest"
)

func TestSmoke(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	k, err := Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	d := New(k, Options{})
	r := service.New(d, service.Options{})
	rnd := servicetest.NewRandom(1)
	for state := range 10 {
		if state > 0 {
			rnd.Change()
		}
		w := rnd.World
		r2 := service.New(d, service.Options{})
		for i, rr := range []*service.Reconciler{r, r2} {
			if i == 1 {
				d = New(k, Options{})
				rr = service.New(d, service.Options{})
			}
			rep, err := rr.Apply(t.Context(), w.Config)
			if err != nil {
				t.Fatal(state, err)
			}
			t.Log(state, i, rep.Writes, rep.Took)
			if i == 1 && rep.Writes > 0 {
				t.Errorf("state %d: restart wrote %d", state, rep.Writes)
			}
			rep, err = rr.Sync(t.Context())
			if err != nil || rep.Writes > 0 {
				t.Fatal(rep, err)
			}
		}
	}
	out, err := exec.Command("ip", "netns", "exec", ns.Name(), "nft", "list", "ruleset").CombinedOutput()
	t.Logf("%s %v", out, err)
}

var _ = strconv.Itoa
var _ = time.Now
