package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/test/controlplane"
)

// kubeBench is podnet-agent on a real API server with n Node objects.
type kubeBench struct {
	b       *bench
	n       int
	host    string // netns path
	conn    *rtnl.Conn
	control *controlplane.ControlPlane
	proxy   *countingProxy
	cmd     *exec.Cmd
	log     bytes.Buffer
	events  kernelEvents
}

// kube measures the agent with nodes from Kubernetes. Without the binaries of test/kube/build it only says so.
func (b *bench) kube(n, changes int) (err error) {
	if _, err := controlplane.Find(); err != nil {
		fmt.Printf("kube: skipped: %v\n", err)
		return nil
	}
	fmt.Printf("kube: %d Nodes of about 10 KB on a real API server, dual-stack, vxlan ...\n", n)
	k := &kubeBench{b: b, n: n}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if k.host, err = b.netns(); err != nil {
		return err
	}
	if err := netns.Do(k.host, underlay); err != nil {
		return err
	}
	if k.conn, err = rtnl.Open(rtnl.Options{Netns: k.host}); err != nil {
		return err
	}
	defer k.conn.Close()
	start, stop := context.WithTimeout(ctx, 2*time.Minute)
	defer stop()
	k.control, err = controlplane.Start(start, controlplane.Config{Netns: k.host, Flags: map[controlplane.Component][]string{
		controlplane.APIServer: {"--max-mutating-requests-inflight=800"}}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.control.Close()) }()
	if err := k.createNodes(ctx); err != nil {
		return err
	}
	if k.proxy, err = startProxy(ctx, k.host, strings.TrimPrefix(k.control.URL(), "https://")); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { k.events.watch(ctx, k.conn) })
	for _, step := range []func(context.Context) error{k.first, func(ctx context.Context) error { return k.changes(ctx, changes) }, k.heartbeats} {
		if err := step(ctx); err != nil {
			k.stop()
			return fmt.Errorf("%w; the agent's log: %s", err, tail(k.log.Bytes(), 2000))
		}
	}
	rss, high, err := memory(k.cmd.Process.Pid)
	k.stop()
	if err != nil {
		return err
	}
	b.table.ratio(k.what("resident memory at the end, MiB of 64"), fmt.Sprintf("%.1f (peak %.1f)", rss, high), "64 allowed", high/64, "<= 1")
	return nil
}

func (k *kubeBench) what(s string) string { return fmt.Sprintf("kube, %d Nodes: %s", k.n, s) }

func (k *kubeBench) stop() {
	if k.cmd != nil && k.cmd.Process != nil {
		_ = k.cmd.Process.Signal(syscall.SIGTERM)
		_ = k.cmd.Wait()
	}
}

func tail(b []byte, most int) []byte { return b[max(0, len(b)-most):] }

// each calls f for 0 to n-1, eight at a time.
func each(n int, f func(i int) error) error {
	var next atomic.Int64
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[w] == nil; i = int(next.Add(1)) - 1 {
				errs[w] = f(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (k *kubeBench) createNodes(ctx context.Context) error {
	admin := k.control.Admin()
	took, err := clock(func() error {
		return each(k.n, func(i int) error { return admin.Do(ctx, http.MethodPost, "/api/v1/nodes", nodeObject(i), nil) })
	})
	if err != nil {
		return err
	}
	var one json.RawMessage
	if err := admin.Do(ctx, http.MethodGet, "/api/v1/nodes/"+nodeName(k.n/2), nil, &one); err != nil {
		return err
	}
	fmt.Printf("kube: made %d Nodes of %d bytes of JSON in %v\n", k.n, len(one), took.Round(time.Second))
	return nil
}

// first measures from the agent's start to the last route, beside the bare writes of the same objects.
func (k *kubeBench) first(ctx context.Context) error {
	dir := filepath.Join(k.b.dir, "kube")
	config := filepath.Join(dir, "kubeconfig")
	if err := errors.Join(os.MkdirAll(dir, 0o700),
		k.control.WriteKubeconfig(config, controlplane.Kubeconfig{Server: "https://" + k.proxy.address, Token: k.control.UserToken(controlplane.Admin)}),
		os.WriteFile(filepath.Join(dir, "net-conf.json"), []byte(`{"Network": "10.64.0.0/10", "EnableIPv6": true, "IPv6Network": "fd00:b::/32",
 "Backend": {"Type": "vxlan"}}`), 0o600)); err != nil {
		return err
	}
	k.cmd = exec.Command(filepath.Join(k.b.bin, "podnet-agent"), "--node-name", nodeName(0), "--kubeconfig", config,
		"--net-conf", filepath.Join(dir, "net-conf.json"), "--subnet-file", filepath.Join(dir, "subnet.env"), "--cni-conf-dir", "",
		"--state-dir", filepath.Join(dir, "state"), "--listen", "127.0.0.1:10256", "--pprof")
	k.cmd.Stdout, k.cmd.Stderr = &k.log, &k.log
	start := time.Now()
	if err := netns.Do(k.host, k.cmd.Start); err != nil {
		return err
	}
	last, err := k.events.routes(2*(k.n-1), 2*time.Minute)
	if err != nil {
		return err
	}
	wall, cpu := last.Sub(start), k.cpu()
	listed := k.proxy.received.Load()
	if err := ready(k.host, time.Minute); err != nil {
		return err
	}
	rss, high, err := memory(k.cmd.Process.Pid)
	if err != nil {
		return err
	}
	bareWall, bareCPU, batchWall, err := k.bare(ctx)
	if err != nil {
		return err
	}
	t := &k.b.table
	t.ratio(k.what("wall time from start to the last route, beside bare writes"), ms(wall), ms(bareWall), float64(wall)/float64(bareWall), "")
	t.ratio(k.what("the same, beside ip and bridge -batch of these objects"), ms(wall), ms(batchWall), float64(wall)/float64(batchWall), "")
	t.ratio(k.what("CPU time to the last route, beside bare writes"), ms(cpu), ms(bareCPU), float64(cpu)/float64(bareCPU), "")
	t.ratio(k.what("bytes of the list on the wire, MB"), fmt.Sprintf("%.2f", float64(listed)/1e6), "", float64(listed)/float64(k.n), "bytes per Node")
	t.ratio(k.what("resident memory when ready, MiB of 64"), fmt.Sprintf("%.1f (peak %.1f)", rss, high), "64 allowed", high/64, "<= 1")
	return nil
}

// cpu is what the agent has used, user and system.
func (k *kubeBench) cpu() time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", k.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	var user, system int64
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	fields := strings.Fields(string(rest))
	if len(fields) < 13 {
		return 0
	}
	fmt.Sscan(fields[11], &user)
	fmt.Sscan(fields[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
}

// changes measures from the PATCH that gives a node another address to the kernel's word that the entry to it is another one.
func (k *kubeBench) changes(ctx context.Context, rounds int) error {
	fmt.Printf("kube: %d changes of one node ...\n", rounds)
	admin := k.control.Admin()
	var took, patch sample
	before := k.cpu()
	rng := rand.New(rand.NewPCG(1, 1))
	for r := range rounds {
		time.Sleep(800*time.Millisecond + time.Duration(rng.Int64N(int64(800*time.Millisecond)))) // the look that follows the agent's own writes is over
		i := 1 + (r*37)%(k.n-1)
		k.events.arm()
		start := time.Now()
		err := admin.Do(ctx, http.MethodPatch, "/api/v1/nodes/"+nodeName(i)+"/status", map[string]any{"status": map[string]any{
			"addresses": addresses(nodeAddr4(k.n+r), nodeAddr6(i))}}, nil)
		if err != nil {
			return err
		}
		patch.add(time.Since(start))
		at, err := k.events.next(10 * time.Second)
		if err != nil {
			return fmt.Errorf("change of %s: %w", nodeName(i), err)
		}
		took.add(at.Sub(start))
	}
	cpu := (k.cpu() - before) / time.Duration(rounds)
	t := &k.b.table
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		o, p := took.quantile(q.at), patch.quantile(q.at)
		t.ratio(k.what("one node changes, from the PATCH to the kernel, beside the PATCH alone, "+q.name), ms(o), ms(p), float64(o)/float64(p), "")
	}
	t.ratio(k.what("CPU time of one change"), ms(cpu), "", cpu.Seconds(), "seconds")
	return nil
}

// heartbeats has many kubelets report in a short time, and says what 5 minutes between the reports of each come to in an hour.
func (k *kubeBench) heartbeats(ctx context.Context) error {
	count := min(k.n, 2000)
	fmt.Printf("kube: %d heartbeats ...\n", count)
	admin := k.control.Admin()
	time.Sleep(2 * time.Second)
	idle := 20 * time.Second
	bytes0, cpu0 := k.proxy.received.Load(), k.cpu()
	time.Sleep(idle)
	bytes1, cpu1 := k.proxy.received.Load(), k.cpu()
	writes, err := metric(k.host, "podnet_agent_kernel_writes_total")
	if err != nil {
		return err
	}
	took, err := clock(func() error {
		return each(count, func(i int) error {
			return admin.Do(ctx, http.MethodPatch, "/api/v1/nodes/"+nodeName(i)+"/status", map[string]any{"status": map[string]any{
				"conditions": conditions(time.Now().Add(time.Minute))}}, nil)
		})
	})
	if err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	took += 2 * time.Second
	bytes2, cpu2 := k.proxy.received.Load(), k.cpu()
	after, err := metric(k.host, "podnet_agent_kernel_writes_total")
	if err != nil {
		return err
	}
	quiet := float64(bytes1-bytes0) / idle.Seconds() // per second
	quietCPU := float64(cpu1-cpu0) / float64(idle)   // of one CPU
	per := (float64(bytes2-bytes1) - quiet*took.Seconds()) / float64(count)
	perCPU := (float64(cpu2-cpu1) - quietCPU*float64(took)) / float64(count)
	hourly := per*float64(k.n)*12 + quiet*3600
	t := &k.b.table
	t.ratio(k.what("bytes on the wire per heartbeat of a node"), fmt.Sprintf("%.0f", per), "", per/1000, "KB")
	t.ratio(k.what("bytes per agent and hour, MB, extrapolated from those"), fmt.Sprintf("%.0f", hourly/1e6), "", hourly/1e9, "GB")
	t.ratio(k.what("CPU time per heartbeat of a node"), ms(time.Duration(perCPU)), "", perCPU*float64(k.n)*12/3600/1e9*100, "% of a CPU with all")
	t.ratio(k.what(fmt.Sprintf("kernel writes because of %d heartbeats", count)), fmt.Sprintf("%.0f", after-writes), "", after-writes, "0")
	t.ratio(k.what("CPU in the quiet, looking every 10 s"), fmt.Sprintf("%.0f ms per look", quietCPU*1e4), "", quietCPU*100, "% of a CPU")
	return nil
}
