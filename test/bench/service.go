package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// serviceSettings are the command line of the part about Services.
type serviceSettings struct {
	sizes       string
	mode        string
	kubeProxy   string        // binary; "" builds it
	minSync     time.Duration // of both proxies
	limit       time.Duration // for a first sync
	changes     int
	quiet       time.Duration
	pathAt      int           // the number of Services at which connections are measured
	connections time.Duration // of each round of the data path; 0 leaves it out
	contestants string
	logs        string
	profile     int
	warm        bool
	guestSizes  string
	guestLimit  time.Duration
	guestPathAt int
}

func (s *serviceSettings) flags(f *flag.FlagSet) {
	f.StringVar(&s.sizes, "service-sizes", "1000x10,5000x10,10000x5,50000x2,1x100000", "Services x endpoints, one run each")
	f.StringVar(&s.mode, "service-mode", "nftables", "of the proxies: nftables, iptables or ipvs (needs a kernel that has it)")
	f.StringVar(&s.kubeProxy, "kube-proxy", "", "binary of kube-proxy; default: built by test/kube/build -p")
	f.DurationVar(&s.minSync, "service-min-sync", time.Millisecond, "minSyncPeriod of both proxies (podnet-proxy takes all up to its default, 1s, for 100ms)")
	f.DurationVar(&s.limit, "service-limit", time.Minute, "how long a first sync may take")
	f.IntVar(&s.changes, "service-changes", 60, "measured changes of one endpoint, fewer when they take more than 25 s")
	f.DurationVar(&s.quiet, "service-quiet", 30*time.Second, "how long the proxies are watched without changes, from 5,000 Services on; 0 leaves it out")
	f.DurationVar(&s.connections, "service-connections", 12*time.Second, "how long connections are made through Services, per way; 0 leaves it out")
	f.IntVar(&s.pathAt, "service-path-at", 10_000, "the number of Services through which connections are made")
	f.StringVar(&s.contestants, "service-proxies", "podnet-proxy,kube-proxy", "the proxies to measure")
	f.BoolVar(&s.warm, "service-warm", false, "run each proxy once before, so that none has to wait for kernel modules")
	f.StringVar(&s.guestSizes, "service-guest-sizes", "20x10,1000x10", "service-sizes in the guest, in mode ipvs")
	f.DurationVar(&s.guestLimit, "service-guest-limit", 150*time.Second, "service-limit in the guest")
	f.IntVar(&s.guestPathAt, "service-guest-path-at", 20, "service-path-at in the guest")
	f.StringVar(&s.logs, "service-logs", "", "directory for the proxies' logs, and a profile of what they allocated")
	f.IntVar(&s.profile, "service-profile", 0, "for how many seconds from the start processors are profiled, into the directory for logs; it costs time")
}

// measured is what was found of one proxy with one dataset.
type measured struct {
	started             bool
	first, fromList     time.Duration // until connections were answered; 0: not finished
	synced              time.Duration // from the end of the list until its metrics say so; only where a sync is not one transaction
	firstCPU, changeCPU time.Duration
	changes             sample
	restart             time.Duration // from the start of the process until what changed meanwhile is in effect
	burst               time.Duration // 1 % of the Services change at once
	rss, high, child    float64       // MiB
	quiet               bool          // watched
	quietCPU            float64       // of one CPU
	limit               time.Duration
}

// unfinished reports whether a first sync took too long.
func (m *measured) unfinished(p *proxyRun) bool {
	return m.first == 0 || p.mode == "ipvs" && m.synced == 0
}

// keep writes log and profile.
func (p *proxyRun) keep(path string) {
	_ = os.WriteFile(path+".log", p.log.Bytes(), 0o644)
	if len(p.allocs) > 0 {
		_ = os.WriteFile(path+".allocs", p.allocs, 0o644)
	}
	if p.profile != nil {
		_ = os.WriteFile(path+".cpu", <-p.profile, 0o644)
	}
}

// startProfile asks for a profile as soon as the proxy listens.
func (p *proxyRun) startProfile(seconds int) {
	p.profile = make(chan []byte, 1)
	go func() {
		var body []byte
		var err error
		for range 1000 {
			if _, body, err = getAt(p.host, "127.0.0.1:10249", fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds)); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		p.profile <- body
	}()
}

// service measures podnet-proxy beside kube-proxy: the first sync, one change, the quiet, memory, and connections through a Service.
func (b *bench) service(s serviceSettings) error {
	all, err := b.contestants(s)
	if err != nil {
		return err
	}
	sizes, err := parseSizes(s.sizes)
	if err != nil {
		return err
	}
	if s.warm {
		if err := b.warmUp(all, s); err != nil {
			return err
		}
	}
	changes := map[string]map[int]time.Duration{} // of each proxy, by number of Services: the median
	for _, d := range sizes {
		fmt.Printf("service: %s, %s ...\n", d, s.mode)
		found, ways, err := b.serviceSize(newWorld(d), all, s)
		if err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
		b.serviceRows(d, found, s)
		b.pathRows(ways, s)
		for name, m := range found {
			if len(m.changes) > 0 && d.services > 1 {
				if changes[name] == nil {
					changes[name] = map[int]time.Duration{}
				}
				changes[name][d.services] = m.changes.quantile(0.5)
			}
		}
	}
	b.flatRows(changes, s)
	return nil
}

// warmUp runs each proxy with a few Services: what it does for the first time has the kernel load modules, which takes seconds in the guest.
func (b *bench) warmUp(all []contestant, s serviceSettings) error {
	w := newWorld(dataset{10, 2})
	for _, c := range all {
		p, err := b.startService(c, w, s)
		if err == nil {
			_, err = p.first(s.limit)
		}
		if err == nil && s.mode == "ipvs" {
			_, err = p.synced(s.limit)
		}
		if p != nil {
			err = errors.Join(err, p.end())
		}
		if err != nil {
			return fmt.Errorf("%s: warm up: %w", c.name, err)
		}
	}
	return nil
}

func parseSizes(list string) (sizes []dataset, err error) {
	for one := range strings.SplitSeq(list, ",") {
		var d dataset
		if n, err := fmt.Sscanf(one, "%dx%d", &d.services, &d.endpoints); n != 2 || err != nil || d.services < 1 || d.endpoints < 1 {
			return nil, fmt.Errorf("size %q: want such as 5000x10, Services x endpoints", one)
		}
		if d.services*d.endpoints > 900_000 {
			return nil, fmt.Errorf("size %q: more endpoints than %s holds", one, endpointRange)
		}
		sizes = append(sizes, d)
	}
	return sizes, nil
}

// contestants returns the proxies, kube-proxy built if need be.
func (b *bench) contestants(s serviceSettings) (all []contestant, err error) {
	for name := range strings.SplitSeq(s.contestants, ",") {
		c := contestant{name, filepath.Join(b.bin, name)}
		if name == "kube-proxy" {
			if c.binary, err = kubeProxy(s.kubeProxy); err != nil {
				return nil, err
			}
		}
		if _, err := os.Stat(c.binary); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, c)
	}
	return all, nil
}

func kubeProxy(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	var out bytes.Buffer
	build := exec.Command("../kube/build", "-p")
	build.Stdout, build.Stderr = &out, os.Stderr
	err := build.Run()
	fmt.Print(out.String())
	if err != nil {
		return "", fmt.Errorf("build kube-proxy: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	last := lines[len(lines)-1] // it ends with the directory
	return filepath.Join(last[strings.LastIndex(last, ": ")+2:], "kube-proxy"), nil
}

// serviceSize measures the proxies one after the other with one dataset, and then all at once in the quiet.
func (b *bench) serviceSize(w *world, all []contestant, s serviceSettings) (found map[string]*measured, ways map[string]*track, err error) {
	found = map[string]*measured{}
	var runs []*proxyRun
	defer b.interruptible(func() {
		for _, p := range runs {
			p.signal(syscall.SIGKILL)
		}
	})()
	defer func() {
		for _, p := range runs {
			err = errors.Join(err, p.end())
			found[p.name].child = p.peak
			if s.logs != "" {
				p.keep(filepath.Join(s.logs, fmt.Sprintf("%s-%dx%d", p.name, w.dataset.services, w.endpoints)))
			}
		}
	}()
	for _, c := range all {
		p, err := b.startService(c, w, s)
		if p != nil {
			runs = append(runs, p)
		}
		found[c.name] = &measured{limit: s.limit}
		if err == nil {
			err = b.active(p, found[c.name], s)
		}
		if err != nil {
			return found, nil, fmt.Errorf("%s: %w; asked for in vain: %s; log: %s", c.name, err, p.api.missing(), tail(p.log.Bytes(), 2000))
		}
		if found[c.name].unfinished(p) {
			if err := p.end(); err != nil { // it would go on trying
				return found, nil, err
			}
			continue
		}
	}
	if s.mode == "ipvs" || w.dataset.services >= 5000 { // where there would be something to do
		if err := idle(runs, found, s.quiet); err != nil {
			return found, nil, err
		}
	}
	if s.connections > 0 && w.dataset.services == s.pathAt {
		ways, err = b.dataPath(runs, s)
	}
	return found, ways, err
}

// interruptible has an interrupt end everything that the run started, until stop is called: the proxies are in process groups of their own, which a terminal does not reach.
func (b *bench) interruptible(kill func()) (stop func()) {
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-done:
		case s := <-signals:
			kill()
			fmt.Fprintln(os.Stderr, "bench:", s, b.cleanUp())
			os.Exit(1)
		}
	}()
	return func() { signal.Stop(signals); close(done) }
}

func sum(s sample) (total time.Duration) {
	for _, d := range s {
		total += d
	}
	return total
}

// settle waits until the proxy has been quiet for half a second, at most 20 s: what it does after its first sync is no part of a change.
func (p *proxyRun) settle() error {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		before := p.cpu()
		time.Sleep(500 * time.Millisecond)
		if p.cpu()-before <= 10*time.Millisecond {
			break
		}
	}
	return p.alive()
}

// idle lets all proxies that have finished run without anything to do.
func idle(runs []*proxyRun, found map[string]*measured, d time.Duration) error {
	if d == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	before := map[string]time.Duration{}
	for _, p := range runs {
		if !p.ended {
			if err := p.settle(); err != nil {
				return err
			}
		}
	}
	for _, p := range runs {
		before[p.name] = p.cpu()
	}
	<-ctx.Done()
	for _, p := range runs {
		if p.ended {
			continue
		}
		if err := p.alive(); err != nil {
			return err
		}
		found[p.name].quiet = true
		found[p.name].quietCPU = float64(p.cpu()-before[p.name]) / float64(d)
		fmt.Printf("service: %s: %.2f %% of a CPU in the quiet\n", p.name, 100*found[p.name].quietCPU)
	}
	return nil
}
