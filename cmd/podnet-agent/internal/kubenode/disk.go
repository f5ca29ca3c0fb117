package kubenode

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
)

// The file with the last good state: one line for the whole, then one line for each node.
type savedHead struct {
	Version int       `json:"podnetNodes"` // of the format
	Node    string    `json:"node"`        // whose state it is
	Saved   time.Time `json:"saved"`
	Nodes   int       `json:"nodes"` // lines that follow
}

type savedNode struct {
	Name      string         `json:"name"`
	UID       string         `json:"uid"`
	Created   int64          `json:"created"`
	PodCIDRs  []netip.Prefix `json:"podCIDRs"`
	Addresses []netip.Addr   `json:"addresses"`
	MAC       rtnl.MAC       `json:"mac,omitzero"`
	MAC6      rtnl.MAC       `json:"mac6,omitzero"`
}

const (
	savedVersion = 1
	maxSaved     = 64 << 20               // bytes: more than 200,000 nodes
	saveAfter    = 200 * time.Millisecond // a change; others come with it
	saveAtMost   = 30 * time.Second       // from one to the next
)

// save writes the state soon after each change, and when ctx ends. It takes a fiftieth of the time at most; the data path does not wait for it.
func (s *Source) save(ctx context.Context) {
	if s.o.State == "" {
		return
	}
	saved, warned := 0, ""
	once := func() error {
		all, version := s.store.copies()
		if version == saved || !s.store.fromAPI() {
			return nil
		}
		err := write(s.o.State, s.o.NodeName, all)
		switch {
		case err == nil:
			saved, warned = version, ""
		case err.Error() != warned:
			s.log.Warn("the state cannot be saved; a restart without API server would not know the nodes", "err", err)
			warned = err.Error()
		}
		return err
	}
	for more := true; more; {
		select {
		case <-ctx.Done():
			more = false
		case <-s.store.dirty:
			if more = sleep(ctx, saveAfter); !more {
				break
			}
			start := time.Now()
			pause := saveAtMost
			if once() == nil {
				pause = min(pause, 50*time.Since(start))
			} else {
				s.store.again()
			}
			more = sleep(ctx, pause)
		}
	}
	_ = once()
}

// write replaces the file in one step.
func write(path, own string, all []ranked) (err error) {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			err = errors.Join(err, os.Remove(temporary))
		}
	}()
	w := bufio.NewWriter(f)
	e := json.NewEncoder(w)
	if err := e.Encode(savedHead{savedVersion, own, time.Now().UTC().Truncate(time.Second), len(all)}); err != nil {
		return err
	}
	for _, r := range all {
		n := r.node
		if err := e.Encode(savedNode{n.Name, r.uid, r.created, n.PodCIDRs, n.Addresses, n.VTEPMAC, n.VTEPMAC6}); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Flush(), f.Sync()); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	if d, err := os.Open(filepath.Dir(path)); err == nil {
		_ = d.Sync() // after a power cut, the older state is as good
		d.Close()
	}
	return nil
}

// savedFor is how long the last good state says something about what a list should have: after that, the cluster may well be another.
const savedFor = 24 * time.Hour

// Saved returns the nodes of the last good state, if that is not old.
func (s *Source) Saved() []node.Node {
	if s.o.State == "" {
		return nil
	}
	head, all, err := read(s.o.State, s.o.NodeName)
	if err != nil || time.Since(head.Saved).Abs() > savedFor {
		return nil // whether it can be used at all is said when it is needed
	}
	nodes := make([]node.Node, len(all))
	for i, r := range all {
		nodes[i] = r.node
	}
	return nodes
}

// load takes over the saved state if nothing is known yet, and reports whether it did.
func (s *Source) load() bool {
	if s.o.State == "" || s.store.known() {
		return false
	}
	head, all, err := read(s.o.State, s.o.NodeName)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		s.log.Warn("the saved state cannot be used", "err", err)
		return false
	}
	var macs [2]rtnl.MAC
	for _, r := range all {
		if r.node.Name == s.o.NodeName {
			macs = [2]rtnl.MAC{r.node.VTEPMAC, r.node.VTEPMAC6}
		}
	}
	note := fmt.Sprintf("nodes are from the disk, as they were on %s: the API server has not told of any since the agent started", head.Saved.Format(time.RFC3339))
	s.store.restore(all, macs, note)
	s.log.Warn("the API server cannot be reached: working with the nodes from the disk", "nodes", len(all), "saved", head.Saved)
	return true
}

// read reads the file, and believes nothing: a node that is not whole makes the file one that is not.
func read(path, own string) (head savedHead, all []ranked, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return head, nil, err
	}
	defer f.Close()
	fault := func(format string, args ...any) (savedHead, []ranked, error) {
		return head, nil, fmt.Errorf("%s: "+format, append([]any{path}, args...)...)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxSaved {
		return fault("want a regular file of at most %d bytes", maxSaved)
	}
	d := json.NewDecoder(bufio.NewReader(f))
	if err := d.Decode(&head); err != nil || head.Version != savedVersion {
		return fault("not a list of nodes of version %d", savedVersion)
	}
	if head.Node != own {
		return fault("is of node %.64q, this is %q", head.Node, own)
	}
	for {
		var n savedNode
		if err := d.Decode(&n); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fault("node %d: %w", len(all)+1, err)
		}
		r := ranked{node.Node{Name: n.Name, PodCIDRs: n.PodCIDRs, Addresses: n.Addresses, VTEPMAC: n.MAC, VTEPMAC6: n.MAC6}, n.Created, n.UID}
		if err := r.node.Validate(); err != nil && n.Name != own {
			return fault("node %d: %w", len(all)+1, err)
		}
		all = append(all, r)
	}
	if len(all) != head.Nodes {
		return fault("has %d nodes, says %d", len(all), head.Nodes)
	}
	return head, all, nil
}
