package filestore

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podnet/podnet/ipam"
)

// The test binary runs itself as other processes of the node: childMode says as what.
const (
	childMode = "PODNET_FILESTORE_CHILD"
	childDir  = "PODNET_FILESTORE_DIR"
	childName = "PODNET_FILESTORE_NAME"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		if err := child(mode, os.Getenv(childDir), os.Getenv(childName)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child says each step on standard output: "a OWNER ADDRESS" after a lease was acknowledged, "r OWNER" before its release begins, "R OWNER"
// after it was acknowledged.
func child(mode, dir, name string) error {
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	p, err := ipam.NewPodAllocator(s, podConfig)
	if err != nil {
		return err
	}
	allocate := func(o ipam.Owner) error {
		got, err := p.Allocate(bg, o, ipam.Request{})
		if err == nil {
			_, err = fmt.Printf("a %s %s\n", o.ContainerID, got[0].Prefix.Addr())
		}
		return err
	}
	n, err := strconv.Atoi(mode)
	for i := range n { // a number: so many leases
		if err := allocate(ipam.Owner{ContainerID: fmt.Sprintf("%s-%d", name, i), Ifname: "eth0"}); err != nil {
			return err
		}
	}
	if err == nil {
		return nil
	}
	for i := 0; ; i++ { // churn until killed
		o := ipam.Owner{ContainerID: fmt.Sprintf("%s-%d", name, i), Ifname: "eth0"}
		if err := allocate(o); err != nil {
			return err
		}
		if i%3 > 0 {
			continue
		}
		fmt.Printf("r %s\n", o.ContainerID)
		if err := p.Release(bg, o); err != nil {
			return err
		}
		fmt.Printf("R %s\n", o.ContainerID)
	}
}

func startChild(t *testing.T, mode, dir, name string) (*exec.Cmd, io.Reader) {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childMode+"="+mode, childDir+"="+dir, childName+"="+name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, out
}

// ledger is what the children have said.
type ledger struct {
	mu    sync.Mutex
	held  map[string]string // acknowledged, and no release begun
	maybe map[string]bool   // release begun, not acknowledged
	gone  map[string]bool   // release acknowledged
}

func newLedger() *ledger {
	return &ledger{held: make(map[string]string), maybe: make(map[string]bool), gone: make(map[string]bool)}
}

func (l *ledger) read(r io.Reader) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		f := strings.Fields(lines.Text())
		l.mu.Lock()
		switch {
		case len(f) == 3 && f[0] == "a":
			l.held[f[1]] = f[2]
		case len(f) == 2 && f[0] == "r":
			delete(l.held, f[1])
			l.maybe[f[1]] = true
		case len(f) == 2 && f[0] == "R":
			delete(l.maybe, f[1])
			l.gone[f[1]] = true
		}
		l.mu.Unlock()
	}
}

// check compares with the store; unknown is how many leases there may be that nobody was told of.
func (l *ledger) check(t *testing.T, dir string, unknown int) {
	t.Helper()
	got := leasesOf(t, dir, Options{})
	for id, a := range l.held {
		if found := got[ipam.Owner{ContainerID: id, Ifname: "eth0"}]; found.String() != a {
			t.Errorf("%s was acknowledged with %s, the store says %v", id, a, found)
		}
	}
	extra := 0
	for o := range got {
		switch {
		case l.gone[o.ContainerID]:
			t.Errorf("%s is there after its acknowledged release", o)
		case l.held[o.ContainerID] == "" && !l.maybe[o.ContainerID]:
			extra++
		}
	}
	if extra > unknown {
		t.Errorf("%d leases that nobody was told of, want at most %d", extra, unknown)
	}
}

func TestManyProcesses(t *testing.T) {
	dir := stateDir(t)
	if _, err := systemOps(); err != nil {
		t.Skipf("needs Linux: %v", err)
	}
	const processes, each = 8, 200
	l := newLedger()
	var wg sync.WaitGroup
	for i := range processes {
		cmd, out := startChild(t, strconv.Itoa(each), dir, fmt.Sprintf("p%d", i))
		wg.Go(func() {
			l.read(out)
			if err := cmd.Wait(); err != nil {
				t.Errorf("process %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if len(l.held) != processes*each {
		t.Errorf("%d acknowledged leases, want %d", len(l.held), processes*each)
	}
	l.check(t, dir, 0)
	mustBeEmptyAfterRelease(t, dir, Options{})
}

// TestKill kills processes at random moments while others go on.
func TestKill(t *testing.T) {
	if _, err := systemOps(); err != nil {
		t.Skipf("needs Linux: %v", err)
	}
	dir := stateDir(t)
	kills, workers := 100, 4
	if testing.Short() {
		kills = 20
	}
	l := newLedger()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			for k := range kills / workers {
				cmd, out := startChild(t, "churn", dir, fmt.Sprintf("w%dk%d", w, k))
				done := make(chan struct{})
				go func() { defer close(done); l.read(out) }()
				timer := time.NewTimer(time.Duration(5+random.IntN(60)) * time.Millisecond)
				<-timer.C
				must(t, cmd.Process.Kill())
				<-done
				_ = cmd.Wait()
			}
		})
	}
	wg.Wait()
	t.Logf("%d kills: %d leases held, %d releases begun, %d acknowledged", kills, len(l.held), len(l.maybe), len(l.gone))
	if len(l.held) == 0 {
		t.Error("no process lived long enough")
	}
	l.check(t, dir, kills)
	s := mustOpen(t, dir, Options{})
	if st := stats(t, s); st.Bad > 0 {
		t.Errorf("bad records: %+v", st)
	}
	mustBeEmptyAfterRelease(t, dir, Options{})
}
