package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// plugin returns the configuration of the only plugin in kernelConf, as the plugin gets it.
func (k *kernelNode) plugin(conf string) []byte {
	k.t.Helper()
	list := k.list(conf)
	text := bytes.Replace(list.Plugins[0].Bytes, []byte(`{`), []byte(`{"cniVersion":"`+list.CNIVersion+`","name":"`+list.Name+`",`), 1)
	return text
}

// start starts the plugin by hand, without libcni. The caller waits for it.
func (k *kernelNode) start(command, id, netns string, conf []byte, stdout io.Writer) (*exec.Cmd, error) {
	cmd := exec.Command(filepath.Join(k.dir, "podnet-cni"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+id, "CNI_NETNS="+netns, "CNI_IFNAME=eth0", "CNI_PATH="+k.dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(conf), stdout, os.Stderr
	return cmd, k.host.Do(cmd.Start)
}

// TestKernelKilled kills ADD and DEL at random moments. DEL leaves nothing afterwards, the next ADD works, and a pod that was there before notices nothing.
func TestKernelKilled(t *testing.T) {
	const rounds = 50
	k := newKernelNode(t)
	steady, victim := rtnltest.NewNetns(t), rtnltest.NewNetns(t)
	first := k.mustAdd(kernelConf, "steady", steady.Path())
	conf := k.plugin(kernelConf)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	killed := 0
	for i := range rounds {
		id := fmt.Sprintf("victim%d", i)
		for _, command := range []string{"ADD", "DEL"} {
			cmd, err := k.start(command, id, victim.Path(), conf, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			// The moment is what the test draws by lot, not something that it waits for.
			timer := time.AfterFunc(time.Duration(random.Int64N(int64(12*time.Millisecond))), func() { _ = cmd.Process.Kill() })
			if err := cmd.Wait(); err != nil {
				killed++
			}
			timer.Stop()
		}
		k.mustDel(kernelConf, id, victim.Path())
		if links, err := victim.Conn(t).Links(context.Background()); err != nil || len(links) != 1 {
			t.Fatalf("round %d: %v in the namespace, %v: want lo only", i, links, err)
		}
		if veths, leases := k.veths(), k.leases(); len(veths) != 1 || !slices.Equal(leases, []string{"steady/eth0"}) {
			t.Fatalf("round %d: left: veths %v, leases %v", i, veths, leases)
		}
	}
	t.Logf("%d of %d processes killed", killed, 2*rounds)
	r := k.mustAdd(kernelConf, "after", victim.Path())
	if err := errors.Join(ping(steady, address(t, r, true)), ping(victim, address(t, first, false))); err != nil {
		t.Error(err)
	}
	if err := k.check(kernelConf, "steady", steady.Path()); err != nil {
		t.Error(err)
	}
	k.mustDel(kernelConf, "after", victim.Path())
	k.mustDel(kernelConf, "steady", steady.Path())
	k.wantNothing()
}

// TestKernelAddAndDelAtOnce runs ADD and DEL of one container at once, as runtimes do though the specification forbids it. The end is that of one of the two orders.
func TestKernelAddAndDelAtOnce(t *testing.T) {
	k := newKernelNode(t)
	pod := rtnltest.NewNetns(t)
	for i := range 20 {
		id := fmt.Sprintf("c%d", i)
		var wait sync.WaitGroup
		var added, deleted error
		wait.Go(func() { _, added = k.add(kernelConf, id, pod.Path()) })
		wait.Go(func() { deleted = k.del(kernelConf, id, pod.Path()) })
		wait.Wait()
		if err := errors.Join(added, deleted); err != nil {
			t.Error(err)
		}
		veths, leases := len(k.veths()), len(k.leases())
		if veths != leases {
			t.Fatalf("round %d: %d links, %d leases: the two orders leave one of each or none", i, veths, leases)
		}
		k.mustDel(kernelConf, id, pod.Path())
	}
	k.wantNothing()
}

// TestKernelFullDisk fills the file system below the leases.
func TestKernelFullDisk(t *testing.T) {
	k := newKernelNode(t)
	if err := os.MkdirAll(k.dataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", k.dataDir, "tmpfs", 0, "size=512k"); err != nil {
		rtnltest.Lacking(t, fmt.Sprintf("may not mount a tmpfs: %v", err))
	}
	t.Cleanup(func() {
		if err := unix.Unmount(k.dataDir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	pods := []*rtnltest.Netns{rtnltest.NewNetns(t), rtnltest.NewNetns(t)}
	k.mustAdd(kernelConf, "early", pods[0].Path())
	other := strings.Replace(strings.Replace(kernelConf, `"net"`, `"other"`, 1), "[[{", `[[{"subnet":"10.99.0.0/24"}],[{`, 1)
	fill(t, filepath.Join(k.dataDir, "filler"))

	// A network without a state file yet needs room for one.
	_, err := k.add(other, "late", pods[1].Path())
	if err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("ADD on a full disk: %v, want one that says so", err)
	}
	if veths := k.veths(); len(veths) != 1 {
		t.Errorf("links %v: want that of the early pod only", veths)
	}
	if err := k.check(kernelConf, "early", pods[0].Path()); err != nil {
		t.Errorf("the earlier pod: %v", err)
	}
	k.mustDel(kernelConf, "early", pods[0].Path()) // needs no room
	k.wantNothing()
}

// fill writes until there is no room.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; size /= 2 {
		for {
			if _, err = f.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling: %v, want ENOSPC", err)
	}
}

// TestKernelRefuses looks that what is wrong is refused with its code before anything is touched.
func TestKernelRefuses(t *testing.T) {
	k := newKernelNode(t)
	pod := rtnltest.NewNetns(t)
	text := writeFile(t, "no-namespace", "")
	for _, tc := range []struct {
		name, netns, conf string
		code              uint
		want              string
	}{
		{"a file for a namespace", text, kernelConf, 4, "is not a network namespace"},
		{"a mount namespace", "/proc/self/ns/mnt", kernelConf, 4, "is a namespace of another kind"},
		{"no namespace", "/run/netns/podnet-test-nonexistent", kernelConf, 3, "does not exist"},
		{"own namespace", k.host.Path(), kernelConf, 8, "should not be the same"},
		{"route", pod.Path(), strings.Replace(kernelConf, `"dst":"192.0.2.0/24"`, `"dst":"192.0.2.1/24"`, 1), 7, "ipam.routes[0].dst 192.0.2.1/24: has host bits set: want 192.0.2.0/24"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			cmd, err := k.start("ADD", "c1", tc.netns, k.plugin(tc.conf), &out)
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Fatalf("succeeded: %s", &out)
			}
			if e := parseError(t, out.String()); e.Code != tc.code || !strings.Contains(e.Error(), tc.want) {
				t.Errorf("code %d, %v; want code %d, %q", e.Code, e, tc.code, tc.want)
			}
			links, err := k.host.Conn(t).Links(context.Background())
			if err != nil || len(links) != 1 {
				t.Errorf("links %v, %v: want lo only", names(links), err)
			}
			if _, err := os.Stat(k.dataDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("state was made: %v", err)
			}
		})
	}
}

func names(links []rtnl.Link) (out []string) {
	for _, l := range links {
		out = append(out, l.Name)
	}
	return out
}
