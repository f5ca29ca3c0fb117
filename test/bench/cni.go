package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/veth"
	"github.com/vishvananda/netlink"
)

// plugin is one CNI plugin on a host of its own.
type plugin struct {
	b      *bench
	path   string // the binary
	host   string // netns path
	config string
	n      int // pods so far
}

// config is understood by bridge + host-local and by podnet-cni alike.
const config = `{"cniVersion": "1.0.0", "name": "bench", "type": %q, "bridge": "cni0", "isDefaultGateway": true, "ipMasq": %v,
  "ipam": {"type": "host-local", "dataDir": %q,
    "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:10:88::/64"}]]}}`

func (b *bench) plugin(binary string, masq bool) (*plugin, error) {
	host, err := b.netns()
	if err != nil {
		return nil, err
	}
	dataDir := filepath.Join(b.dir, netns.Name(host))
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, err
	}
	p := &plugin{b: b, path: binary, host: host, config: fmt.Sprintf(config, filepath.Base(binary), masq, dataDir)}
	return p, netns.Do(host, func() error { return exec.Command("ip", "link", "set", "lo", "up").Run() })
}

// exec runs one verb. It has to be called inside the host's namespace.
func (p *plugin) exec(verb, id, pod string) error {
	cmd := exec.Command(p.path)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + pod, "CNI_IFNAME=eth0",
		"CNI_PATH=" + p.b.peers, "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader(p.config)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s %s: %w: %s %s", filepath.Base(p.path), verb, id, err, stdout.Bytes(), stderr.Bytes())
	}
	return nil
}

// pod returns a new container ID, in the form of containerd's, and its namespace.
func (p *plugin) pod() (id, pod string, err error) {
	p.n++
	pod, err = p.b.netns()
	return fmt.Sprintf("%064x", p.n), pod, err
}

// measure runs one ADD and one DEL and adds their times.
func (p *plugin) measure(add, del *sample) error {
	id, pod, err := p.pod()
	if err != nil {
		return err
	}
	defer netns.Delete(netns.Name(pod))
	return netns.Do(p.host, func() error {
		d, err := clock(func() error { return p.exec("ADD", id, pod) })
		if err != nil {
			return err
		}
		add.add(d)
		d, err = clock(func() error { return p.exec("DEL", id, pod) })
		del.add(d)
		return err
	})
}

// fill gives a host n pods. podnet-cni gets real ADDs. The peer gets its lease files and links written directly, since 1,000 of its ADDs
// take minutes; each link ends in a namespace of its own too, so that both bridges flood as many pods. That favours the peer: its
// per-pod iptables chains are missing.
func (p *plugin) fill(n int) error {
	if filepath.Base(p.path) == "podnet-cni" {
		return p.addMany(n, 2, nil)
	}
	id, pod, err := p.pod()
	if err != nil {
		return err
	}
	// The first ADD makes the bridge and the lease directory.
	if err := netns.Do(p.host, func() error { return p.exec("ADD", id, pod) }); err != nil {
		return err
	}
	host, err := rtnl.Open(rtnl.Options{Netns: p.host})
	if err != nil {
		return err
	}
	defer host.Close()
	leases := filepath.Join(p.b.dir, netns.Name(p.host), "bench")
	for i := 3; i < n+3; i++ {
		id, pod, err := p.pod()
		if err != nil {
			return err
		}
		for _, addr := range []string{ipv4(i), fmt.Sprintf("fd00:10:88::%x", i)} {
			if err := os.WriteFile(filepath.Join(leases, addr), []byte(id+"\r\neth0"), 0o600); err != nil {
				return err
			}
		}
		if err := fillLink(host, pod, i); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(leases, "last_reserved_ip.0"), []byte(ipv4(n+3)), 0o600)
}

func ipv4(i int) string { return fmt.Sprintf("10.88.%d.%d", i>>8, i&255) }

// fillLink connects a pod to cni0.
func fillLink(host *rtnl.Conn, pod string, i int) error {
	errs := host.Write(context.Background(), rtnl.Plan{{Verb: rtnl.Add, Object: rtnl.Link{Name: fmt.Sprintf("fill%d", i), Kind: rtnl.KindVeth,
		Up: rtnl.On, Master: "cni0", Veth: rtnl.Veth{Peer: "eth0", PeerNetns: pod}}}})
	inside, err := rtnl.Open(rtnl.Options{Netns: pod})
	if err != nil {
		return err
	}
	defer inside.Close()
	return errors.Join(errors.Join(errs...), errors.Join(inside.Write(context.Background(), rtnl.Plan{
		{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.On}},
		{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.MustParsePrefix(ipv4(i) + "/16")}}})...))
}

// addMany runs n ADDs, at most width at once, and adds each one's time to took if that is not nil.
func (p *plugin) addMany(n, width int, took *sample) error {
	type podRef struct{ id, netns string }
	pods := make(chan podRef, n)
	for range n {
		id, pod, err := p.pod()
		if err != nil {
			return err
		}
		pods <- podRef{id, pod}
	}
	close(pods)
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for range width {
		wg.Go(func() {
			err := netns.Do(p.host, func() error {
				for pod := range pods {
					d, err := clock(func() error { return p.exec("ADD", pod.id, pod.netns) })
					if err != nil {
						return err
					}
					if took != nil {
						mu.Lock()
						took.add(d)
						mu.Unlock()
					}
				}
				return nil
			})
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// cni measures the plugin beside bridge + host-local.
func (b *bench) cni(pods, rounds int) error {
	if err := b.buildPeers(); err != nil {
		return err
	}
	ours, theirs := filepath.Join(b.bin, "podnet-cni"), filepath.Join(b.peers, "bridge")
	for _, c := range []struct {
		masq bool
		pods int
		want string
	}{{true, pods, ">= 8"}, {false, 0, ""}} {
		fmt.Printf("CNI: dual-stack, ipMasq %v, %d pods there ...\n", c.masq, c.pods)
		us, err := b.plugin(ours, c.masq)
		if err != nil {
			return err
		}
		them, err := b.plugin(theirs, c.masq)
		if err != nil {
			return err
		}
		if err := errors.Join(us.fill(c.pods), them.fill(c.pods)); err != nil {
			return err
		}
		var ourAdd, ourDel, theirAdd, theirDel, kernel sample
		for range rounds { // interleaved, so that noise hits all alike
			d, err := us.unregister()
			if err != nil {
				return err
			}
			kernel.add(d)
			if err := errors.Join(us.measure(&ourAdd, &ourDel), them.measure(&theirAdd, &theirDel)); err != nil {
				return err
			}
		}
		what := fmt.Sprintf("dual-stack, ipMasq %v, %d pods", c.masq, c.pods)
		b.table.faster("ADD "+what, ourAdd, theirAdd, c.want)
		b.table.faster("DEL "+what, ourDel, theirDel, "")
		o, k := ourDel.quantile(0.5), kernel.quantile(0.5)
		b.table.ratio("DEL "+what+", beside the kernel's veth unregister", ms(o), ms(k), float64(o)/float64(k), "<= 1.3")
	}
	return b.concurrent()
}

// concurrent compares 100 ADDs at once with 100 in turn, in one host each.
func (b *bench) concurrent() error {
	fmt.Println("CNI: 100 ADDs at once ...")
	took := map[int]time.Duration{}
	for _, width := range []int{1, 100} {
		p, err := b.plugin(filepath.Join(b.bin, "podnet-cni"), true)
		if err != nil {
			return err
		}
		if err := p.addMany(1, 1, nil); err != nil { // the bridge and the table are there
			return err
		}
		if took[width], err = clock(func() error { return p.addMany(100, width, nil) }); err != nil {
			return err
		}
	}
	b.table.ratio("100 ADDs at once, beside 100 in turn", ms(took[100]), ms(took[1]), float64(took[100])/float64(took[1]), "<= 1")
	return nil
}

// unregister measures how long the kernel takes to remove the link of an attached pod, by one netlink message.
func (p *plugin) unregister() (took time.Duration, err error) {
	id, pod, err := p.pod()
	if err != nil {
		return 0, err
	}
	defer netns.Delete(netns.Name(pod))
	err = netns.Do(p.host, func() error {
		if err := p.exec("ADD", id, pod); err != nil {
			return err
		}
		link, err := netlink.LinkByName(veth.HostName(id, "eth0"))
		if err != nil {
			return err
		}
		if took, err = clock(func() error { return netlink.LinkDel(link) }); err != nil {
			return err
		}
		return p.exec("DEL", id, pod) // the lease
	})
	return took, err
}
