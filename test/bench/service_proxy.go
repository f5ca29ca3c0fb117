package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/podnet/podnet/internal/netns"
)

// contestant is a service proxy that is measured.
type contestant struct{ name, binary string }

// proxyRun is one proxy on a node of its own, with an API server of its own that serves the same objects.
type proxyRun struct {
	contestant
	*serviceHost
	world *world
	api   *apiServer
	cmd   *exec.Cmd
	log   bytes.Buffer
	// allocs is a profile of what it allocated until its first sync was over.
	allocs  []byte
	profile chan []byte // of its processors, when asked for
	mode    string
	config  string       // its file
	gen     *generations // nil in modes without nftables
	begun   time.Time
	ended   bool

	watched sync.WaitGroup
	unwatch chan struct{}
	peak    float64 // MiB, of its largest child; known when it has ended
}

const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection:
  kubeconfig: %[1]s
hostnameOverride: ` + serviceNode + `
mode: %[2]s
detectLocalMode: ClusterCIDR
clusterCIDR: ` + clusterCIDR + `
bindAddress: 0.0.0.0
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
enableProfiling: true
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
%[2]s:
  minSyncPeriod: %[3]s
`

const proxyKubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: bench, cluster: {server: "http://%s"}}]
contexts: [{name: bench, context: {cluster: bench, user: bench}}]
current-context: bench
users: [{name: bench, user: {}}]
`

// startService makes a node and starts a proxy on it.
func (b *bench) startService(c contestant, w *world, s serviceSettings) (p *proxyRun, err error) {
	p = &proxyRun{contestant: c, world: w, mode: s.mode}
	if p.serviceHost, err = b.serviceHost(); err != nil {
		return nil, err
	}
	var l net.Listener
	if l, err = listen(p.host, "127.0.0.1:0"); err != nil {
		return nil, err
	}
	p.api = serveAPI(w, l)
	if s.mode == "nftables" || s.mode == "iptables" && iptablesIsNFT() {
		if p.gen, err = openGenerations(p.host); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(b.dir, fmt.Sprintf("%s-%d", c.name, b.fresh))
	config, kubeconfig := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "kubeconfig")
	if err := errors.Join(os.MkdirAll(dir, 0o700),
		os.WriteFile(kubeconfig, fmt.Appendf(nil, proxyKubeconfig, l.Addr()), 0o600),
		os.WriteFile(config, fmt.Appendf(nil, proxyConfig, kubeconfig, s.mode, s.minSync), 0o600)); err != nil {
		return nil, err
	}
	p.config = config
	return p, p.start()
}

// start starts the proxy, for the first time or again.
func (p *proxyRun) start() error {
	p.cmd = exec.Command(p.binary, "--config", p.config)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // kube-proxy's nft is in the group too
	p.begun = time.Now()
	if err := netns.Do(p.host, p.cmd.Start); err != nil {
		return err
	}
	p.unwatch = make(chan struct{})
	p.watched.Go(p.watchChildren)
	return nil
}

// kill ends the proxy's processes at once, as the kernel does when memory is short.
func (p *proxyRun) kill() {
	p.signal(syscall.SIGKILL)
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Wait()
	}
	if p.unwatch != nil {
		close(p.unwatch)
		p.watched.Wait()
		p.unwatch = nil
	}
}

func iptablesIsNFT() bool {
	out, err := exec.Command("iptables", "--version").Output()
	return err == nil && bytes.Contains(out, []byte("nf_tables"))
}

// watchChildren looks for the largest child. What the kernel says of children that have ended is no help: it counts what was theirs before they were another program.
func (p *proxyRun) watchChildren() {
	for {
		for _, pid := range p.group() {
			if _, high, err := memory(pid); err == nil && pid != p.cmd.Process.Pid {
				p.peak = max(p.peak, high)
			}
		}
		select {
		case <-p.unwatch:
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// signal reaches the proxy and its children.
func (p *proxyRun) signal(s syscall.Signal) {
	if p.cmd != nil && p.cmd.Process != nil && !p.ended {
		_ = syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

// end kills the proxy. Safe to call twice.
func (p *proxyRun) end() error {
	if p.ended {
		return nil
	}
	var errs []error
	p.kill()
	p.ended = true
	if p.api != nil {
		errs = append(errs, p.api.close())
	}
	if p.gen != nil {
		p.gen.close()
	}
	if p.stop != nil {
		p.stop()
	}
	for _, path := range []string{p.client, p.pods, p.host} {
		errs = append(errs, netns.Delete(netns.Name(path)))
	}
	return errors.Join(errs...)
}

// alive returns an error with the end of the log when the proxy has ended by itself.
func (p *proxyRun) alive() error {
	if fields := procStat(strconv.Itoa(p.cmd.Process.Pid)); len(fields) > 0 && fields[0] != "Z" {
		return nil
	}
	return fmt.Errorf("%s has ended; its log: %s", p.name, tail(p.log.Bytes(), 3000))
}

// cpu is what the proxy has used, with its children. What has ended is counted with its parent.
func (p *proxyRun) cpu() (total time.Duration) {
	for _, pid := range p.group() {
		fields := procStat(strconv.Itoa(pid))
		if len(fields) < 15 {
			continue // it has ended meanwhile
		}
		for _, f := range fields[11:15] { // utime, stime, cutime, cstime
			ticks, _ := strconv.ParseInt(f, 10, 64)
			total += time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
		}
	}
	return total
}

// group returns the processes of the proxy's process group.
func (p *proxyRun) group() (pids []int) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	leader := strconv.Itoa(p.cmd.Process.Pid)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if fields := procStat(name); len(fields) > 2 && fields[2] == leader {
			pids = append(pids, pid)
		}
	}
	return pids
}

// procStat returns the fields of /proc/PID/stat from the state on.
func procStat(pid string) []string {
	stat, _ := os.ReadFile("/proc/" + pid + "/stat")
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return strings.Fields(string(rest))
}

// first waits until Services are in effect: the last one, and then a sample of all. It returns when that was.
func (p *proxyRun) first(limit time.Duration) (at time.Time, err error) {
	err = netns.Do(p.client, func() error {
		deadline := p.begun.Add(limit)
		last := p.world.clusterIP(p.world.dataset.services - 1)
		for {
			if _, _, err := ask(last, servicePort, 10*time.Millisecond); err == nil {
				break
			}
			if time.Now().After(deadline) {
				return errNotFinished
			}
			if err := p.alive(); err != nil {
				return err
			}
			pause(p.begun)
		}
		at = time.Now()
		missed, err := p.sample(deadline)
		if missed > 0 {
			at = time.Now()
		}
		return err
	})
	return at, err
}

// pause waits a hundredth of the time that has passed, so that asking costs little beside what is waited for, and the answer is known to about one percent.
func pause(since time.Time) {
	time.Sleep(min(max(time.Since(since)/100, 200*time.Microsecond), time.Second))
}

// synced waits until the proxy's own metrics say that it has synced.
func (p *proxyRun) synced(limit time.Duration) (at time.Time, err error) {
	deadline := p.begun.Add(limit)
	for {
		last, err := metricAt(p.host, "127.0.0.1:10249", "kubeproxy_sync_proxy_rules_last_timestamp_seconds")
		if at = time.Now(); err == nil && last > 0 {
			return at, nil
		}
		if at.After(deadline) {
			return at, errNotFinished
		}
		if err := p.alive(); err != nil {
			return at, err
		}
		pause(p.begun)
	}
}

var errNotFinished = errors.New("not finished in time")

// sample asks up to 200 Services until each has answered with an endpoint of its own, and returns how many did not at once.
func (p *proxyRun) sample(deadline time.Time) (missed int, err error) {
	n := p.world.dataset.services
	for k := range min(n, 200) {
		i := k * n / min(n, 200)
		for try := 0; ; try++ {
			from, _, err := ask(p.world.clusterIP(i), servicePort, 100*time.Millisecond)
			if err == nil && !p.belongs(i, from) {
				return missed, fmt.Errorf("%s: Service %d was answered by %v", p.name, i, from)
			}
			if err == nil {
				break
			}
			if try == 0 {
				missed++
			}
			if time.Now().After(deadline) {
				return missed, fmt.Errorf("%s: %w: the last Service answers, number %d does not: %w", p.name, errNotFinished, i, err)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	return missed, nil
}

// belongs reports whether an address is one of the endpoints that Service i has at first.
func (p *proxyRun) belongs(i int, a netip.Addr) bool {
	for j := range p.world.dataset.endpoints {
		if p.world.endpoint(i, j) == a {
			return true
		}
	}
	return false
}
