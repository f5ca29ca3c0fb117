package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/podnet/podnet/bridge"
	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/ipam/filestore"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/veth"
)

// kernel is what bridge and veth ask of a network namespace.
type kernel interface {
	bridge.Kernel
	veth.Kernel
}

// machine is what the plugin works on. Tests put the fakes in.
type machine struct {
	host    func() (kernel, error)             // the node's namespace: the plugin's own
	pod     func(netns string) (kernel, error) // a container's
	masq    masq.Kernel
	store   func(dir string) (ipam.Store, error)
	noState func(dir string) (bool, error)                                // has there never been an ADD?
	peers   func(dataDir string) ([]string, error)                        // the networks that have leases there
	lock    func(ctx context.Context, dir, key string) (io.Closer, error) // see lockAttachments
	isNetns func(path string) error
	isOwn   func(path string) bool // is it the plugin's own namespace?
}

// realMachine is the one that the process runs on. The operating system closes what it opens: the process ends right after.
func realMachine() machine {
	open := func(netns string) (kernel, error) {
		c, err := rtnl.Open(rtnl.Options{Netns: netns})
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	return machine{
		host:    func() (kernel, error) { return open("") },
		pod:     open,
		masq:    &masq.Netfilter{},
		store:   func(dir string) (ipam.Store, error) { return filestore.Open(dir, filestore.Options{}) },
		noState: isMissing, peers: networks, lock: lockAttachments, isNetns: isNetns, isOwn: isOwnNetns,
	}
}

// plugin does the verbs.
type plugin struct {
	machine machine
}

// verbs returns what the process edge calls.
func (p *plugin) verbs() verbs {
	return verbs{add: p.add, del: p.del, check: p.check, gc: p.gc, status: p.status}
}

// isMissing reports whether there is no such file or directory.
func isMissing(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// networks returns the names of the networks whose state is below dataDir. Other plugins may keep theirs there too.
func networks(dataDir string) ([]string, error) {
	entries, err := os.ReadDir(dataDir)
	var names []string
	for _, e := range entries {
		if missing, err := isMissing(filepath.Join(stateDir(dataDir, e.Name()), lockName)); err == nil && !missing && e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// stateDir is where a network's leases are.
func stateDir(dataDir, network string) string { return filepath.Join(dataDir, network) }

// allocator returns the allocator of c's addresses.
func (p *plugin) allocator(c config) (*ipam.PodAllocator, error) {
	store, err := p.machine.store(stateDir(c.dataDir, c.name))
	if err != nil {
		return nil, fmt.Errorf("open leases: %w", err)
	}
	return ipam.NewPodAllocator(store, c.podConfig())
}

// leases returns an allocator that can only look and release, for the verbs that must work whatever the ranges are now. The ranges
// given here are never allocated from.
func (p *plugin) leases(dataDir, network string) (*ipam.PodAllocator, error) {
	store, err := p.machine.store(stateDir(dataDir, network))
	if err != nil {
		return nil, fmt.Errorf("open leases: %w", err)
	}
	return ipam.NewPodAllocator(store, ipam.PodConfig{RangeSets: [][]ipam.Range{{{Subnet: anySubnet}}}})
}
