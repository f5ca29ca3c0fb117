package takeover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/ipam/filestore"
)

var subnets = []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:244:0:1::/64")}

// newLeases makes the files of host-local.
func newLeases(t *testing.T, files map[string]string) Leases {
	t.Helper()
	dir := t.TempDir()
	l := Leases{HostLocal: filepath.Join(dir, "networks", "cbr0"), Store: filepath.Join(dir, "podnet", "podnet"), Subnets: subnets}
	if files == nil {
		return l
	}
	if err := os.MkdirAll(l.HostLocal, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(l.HostLocal, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func allocator(t *testing.T, l Leases) *ipam.PodAllocator {
	t.Helper()
	store, err := filestore.Open(l.Store, filestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	a, err := ipam.NewPodAllocator(store, ipam.PodConfig{RangeSets: [][]ipam.Range{{{Subnet: subnets[0]}}, {{Subnet: subnets[1]}}}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// held returns the leases of podnet-cni, one line each.
func held(t *testing.T, l Leases) string {
	t.Helper()
	leases, err := allocator(t, l).Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, lease := range leases {
		fmt.Fprintf(&b, "%s", lease.Owner)
		for _, a := range lease.Addresses {
			fmt.Fprintf(&b, " %s", a.Prefix)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func mustImport(t *testing.T, l Leases) Report {
	t.Helper()
	r, err := l.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestImport(t *testing.T) {
	l := newLeases(t, map[string]string{
		"10.244.1.5": "aaa\r\neth0", "fd00:244:0:1::5": "aaa\r\neth0",
		"10.244.1.6":         "bbb\neth0", // as some versions write it
		"10.244.1.7":         "ccc",       // before 0.8
		"10.244.1.8":         "aaa\r\nnet1",
		"10.244.1.9":         "",
		"10.244.1.10":        "\x00\x00\x00\x00",
		"10.99.0.1":          "ddd\r\neth0", // of a podCIDR that the node had before
		"last_reserved_ip.0": "10.244.1.7", "last_reserved_ip.1": "fd00:244:0:1::5", "lock": "", "README": "hello",
	})
	plan, done, err := l.PlanImport()
	if err != nil || done || len(plan.Leases) != 7 || len(plan.Problems) != 3 {
		t.Fatalf("plan: %v, %v, %v", plan, done, err)
	}
	r := mustImport(t, l)
	if diff := cmp.Diff(plan.Problems, r.Problems); diff != "" {
		t.Errorf("the plan said otherwise:\n%s", diff)
	}
	for i, want := range []string{"10.244.1.10: 4 bytes that name no container", "10.244.1.9: 0 bytes that name no container", "README: no lease"} {
		if !strings.Contains(r.Problems[i], want) {
			t.Errorf("problem %d: %s, want %s", i, r.Problems[i], want)
		}
	}
	want := "aaa/eth0 10.244.1.5/24 fd00:244:0:1::5/64\naaa/net1 10.244.1.8/24\nbbb/eth0 10.244.1.6/24\nccc/eth0 10.244.1.7/24\nddd/eth0 10.99.0.1/32\n" +
		"unreadable-10.244.1.10/eth0 10.244.1.10/24\nunreadable-10.244.1.9/eth0 10.244.1.9/24\n"
	if diff := cmp.Diff(want, held(t, l)); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
	if again := mustImport(t, l); len(again.Leases) > 0 || again.Changed > 0 {
		t.Errorf("a second time: %v", again)
	}
	// Round robin goes on where host-local stood, and nothing is handed out twice.
	a := allocator(t, l)
	got, err := a.Allocate(t.Context(), ipam.Owner{ContainerID: "new", Ifname: "eth0"}, ipam.Request{})
	if err != nil || got[0].Prefix.Addr() != netip.MustParseAddr("10.244.1.11") {
		t.Errorf("the next address is %v, %v", got, err)
	}
	// DEL as the runtime does it.
	if err := a.Release(t.Context(), ipam.Owner{ContainerID: "aaa", Ifname: "eth0"}); err != nil {
		t.Error(err)
	}
	if s := held(t, l); strings.Contains(s, "aaa/eth0") {
		t.Errorf("not released:\n%s", s)
	}
	if err := os.MkdirAll(l.HostLocal, 0o755); err == nil {
		t.Error("host-local can still open its directory")
	}
}

// TestImportCutShort begins again after a run that had written the records but not closed host-local's directory: pods came and went meanwhile.
func TestImportCutShort(t *testing.T) {
	l := newLeases(t, map[string]string{"10.244.1.5": "aaa\r\neth0", "10.244.1.6": "bbb\r\neth0", "10.244.1.7": "ccc\r\neth0"})
	if err := os.MkdirAll(filepath.Dir(l.Store), 0o755); err != nil {
		t.Fatal(err)
	}
	store, err := filestore.Open(l.Store, filestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := readHostLocal(l.HostLocal)
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := store.Update(t.Context(), func(tx ipam.Tx) error {
		_, err := l.enter(tx, h, &r)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	store.Close()
	for name, text := range map[string]string{"10.244.1.5": "ddd\r\neth0", "10.244.1.8": "bbb\r\neth0"} {
		if err := os.WriteFile(filepath.Join(l.HostLocal, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(l.HostLocal, "10.244.1.6")); err != nil {
		t.Fatal(err)
	}
	mustImport(t, l)
	if diff := cmp.Diff("bbb/eth0 10.244.1.8/24\nccc/eth0 10.244.1.7/24\nddd/eth0 10.244.1.5/24\n", held(t, l)); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
}

// TestImportShared finds podnet-cni at work already: what it has handed out stays.
func TestImportShared(t *testing.T) {
	l := newLeases(t, map[string]string{"10.244.1.2": "old\r\neth0", "10.244.1.9": "other\r\neth0"})
	l.Shared = true
	if _, err := allocator(t, l).Allocate(t.Context(), ipam.Owner{ContainerID: "new", Ifname: "eth0"}, ipam.Request{}); err != nil {
		t.Fatal(err)
	}
	r := mustImport(t, l)
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "podnet gave 10.244.1.2 to new/eth0") {
		t.Errorf("problems: %v", r.Problems)
	}
	if diff := cmp.Diff("new/eth0 10.244.1.2/24 fd00:244:0:1::2/64\nother/eth0 10.244.1.9/24\n", held(t, l)); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
}

func TestImportMissing(t *testing.T) {
	l := newLeases(t, nil)
	l.InUse = true
	if _, err := l.Import(t.Context()); err == nil || !strings.Contains(err.Error(), "is the directory mounted here?") {
		t.Errorf("pods without leases: %v", err)
	}
	l.InUse = false
	mustImport(t, l)
	if st, err := stateOf(l.HostLocal); st != fenced || err != nil {
		t.Errorf("host-local's directory is not closed: %v, %v", st, err)
	}
	if err := os.WriteFile(l.HostLocal, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Import(t.Context()); err == nil || !strings.Contains(err.Error(), "a file that is not podnet's") {
		t.Errorf("a strange file: %v", err)
	}
}

// TestExport gives the leases back, also in two steps, and takes them again.
func TestExport(t *testing.T) {
	files := map[string]string{"10.244.1.5": "aaa\r\neth0", "fd00:244:0:1::5": "aaa\r\neth0", "10.244.1.6": "bbb\r\neth0", "last_reserved_ip.0": "10.244.1.6", "last_reserved_ip.1": "fd00:244:0:1::5"}
	l := newLeases(t, files)
	mustImport(t, l)
	if _, err := allocator(t, l).Allocate(t.Context(), ipam.Owner{ContainerID: "ccc", Ifname: "eth0"}, ipam.Request{}); err != nil {
		t.Fatal(err)
	}
	if r, done, err := l.PlanExport(t.Context()); err != nil || done || len(r.Leases) != 3 {
		t.Fatalf("plan: %v, %v, %v", r, done, err)
	}
	flannelDir := filepath.Join(t.TempDir(), "flannel")
	conf := func(o ipam.Owner) []byte { return []byte("conf of " + o.ContainerID) }
	if err := fence(l.Store, l.HostLocal); err != nil { // a run that was cut short here
		t.Fatal(err)
	}
	if _, err := l.Export(t.Context(), flannelDir, conf); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	entries, err := os.ReadDir(l.HostLocal)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(l.HostLocal, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(text)
	}
	want := map[string]string{"10.244.1.7": "ccc\r\neth0", "fd00:244:0:1::2": "ccc\r\neth0"}
	for name, text := range files {
		want[name] = text
	}
	want["last_reserved_ip.0"], want["last_reserved_ip.1"] = "10.244.1.7", "fd00:244:0:1::2"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("host-local's files (-want +got):\n%s", diff)
	}
	if text, err := os.ReadFile(filepath.Join(flannelDir, "ccc")); string(text) != "conf of ccc" || err != nil {
		t.Errorf("flannel's record: %q, %v", text, err)
	}
	if _, err := filestore.Open(l.Store, filestore.Options{}); err == nil {
		t.Error("podnet-cni can still open its store")
	}
	if _, done, err := l.PlanExport(t.Context()); !done || err != nil {
		t.Errorf("a second time: %v, %v", done, err)
	}
	if _, err := l.Export(t.Context(), flannelDir, conf); err != nil {
		t.Error(err)
	}
	mustImport(t, l)
	if diff := cmp.Diff("aaa/eth0 10.244.1.5/24 fd00:244:0:1::5/64\nbbb/eth0 10.244.1.6/24\nccc/eth0 10.244.1.7/24 fd00:244:0:1::2/64\n", held(t, l)); diff != "" {
		t.Errorf("leases after the way back and forth (-want +got):\n%s", diff)
	}
}

// hostLocalPlugin is the real one.
func hostLocalPlugin(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{os.Getenv("PODNET_REFERENCE_CNI"), "/usr/lib/cni", "/opt/cni/bin"} {
		if path := filepath.Join(dir, "host-local"); dir != "" {
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
	}
	t.Skip("no host-local: want it in $PODNET_REFERENCE_CNI, /usr/lib/cni or /opt/cni/bin")
	return ""
}

func hostLocalRun(plugin, command, id string, l Leases) (netip.Addr, error) {
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"cbr0","type":"x","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.244.1.0/24"}]]}}`, filepath.Dir(l.HostLocal))
	cmd := exec.Command(plugin)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+id, "CNI_NETNS=/proc/self/ns/net", "CNI_NETNS_OVERRIDE=1", "CNI_IFNAME=eth0", "CNI_PATH=/")
	cmd.Stdin = strings.NewReader(conf)
	out, err := cmd.Output()
	if err != nil || command != "ADD" {
		return netip.Addr{}, err
	}
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal(out, &result); err != nil || len(result.IPs) != 1 {
		return netip.Addr{}, errors.Join(err, fmt.Errorf("result %s", out))
	}
	return result.IPs[0].Address.Addr(), nil
}

// TestNoAddressTwice has real host-local processes hand out addresses while the leases are taken over, as a runtime that still knows flannel's configuration
// does, and podnet-cni's allocator from the moment that it may. No two owners may get one address; nor on the way back.
func TestNoAddressTwice(t *testing.T) {
	plugin := hostLocalPlugin(t)
	l := newLeases(t, map[string]string{"lock": ""})
	var mu sync.Mutex
	owners := map[netip.Addr][]string{}
	note := func(a netip.Addr, owner string) {
		mu.Lock()
		defer mu.Unlock()
		owners[a] = append(owners[a], owner)
	}
	const workers, each = 4, 12
	served := make(chan struct{}, workers*each)
	var wg sync.WaitGroup
	refused := make([]int, workers)
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				id := fmt.Sprintf("old-%d-%d", w, i)
				if a, err := hostLocalRun(plugin, "ADD", id, l); err == nil {
					note(a, id)
					served <- struct{}{}
				} else {
					refused[w]++
				}
			}
		})
	}
	for range 3 * workers { // in full swing
		<-served
	}
	mustImport(t, l)
	a := allocator(t, l)
	for i := range 40 {
		id := fmt.Sprintf("new-%d", i)
		got, err := a.Allocate(t.Context(), ipam.Owner{ContainerID: id, Ifname: "eth0"}, ipam.Request{})
		if err != nil {
			t.Fatal(err)
		}
		note(got[0].Prefix.Addr(), id)
	}
	wg.Wait()
	old := 0
	for addr, who := range owners {
		if len(who) > 1 {
			t.Errorf("%s was handed out to %v", addr, who)
		}
		if strings.HasPrefix(who[0], "old") {
			old++
		}
	}
	total := 0
	for _, n := range refused {
		total += n
	}
	t.Logf("%d addresses by host-local before, %d of its processes refused, %d addresses by podnet", old, total, 40)
	if total == 0 {
		t.Error("host-local was never refused: the test proves nothing")
	}
	if n := strings.Count(held(t, l), "old-"); n != old {
		t.Errorf("%d leases of host-local are known, want %d", n, old)
	}
	if _, err := l.Export(context.Background(), filepath.Join(t.TempDir(), "f"), nil); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		id := fmt.Sprintf("back-%d", i)
		addr, err := hostLocalRun(plugin, "ADD", id, l)
		if err != nil {
			t.Fatal(err)
		}
		if note(addr, id); len(owners[addr]) > 1 {
			t.Errorf("%s was handed out to %v", addr, owners[addr])
		}
	}
	if _, err := hostLocalRun(plugin, "DEL", "new-3", l); err != nil {
		t.Errorf("host-local does not release what podnet has handed out: %v", err)
	}
	for addr, who := range owners {
		_, err := os.Stat(filepath.Join(l.HostLocal, addr.String()))
		if gone := errors.Is(err, fs.ErrNotExist); gone != (who[0] == "new-3") {
			t.Errorf("%s of %v: gone %v", addr, who, gone)
		}
	}
}
