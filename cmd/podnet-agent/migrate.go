package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/takeover"
	"github.com/podnet/podnet/internal/reconcile"
	"github.com/podnet/podnet/internal/subnetenv"
	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
)

// migration is one run of "podnet-agent migrate".
type migration struct {
	options
	from, to    string
	dryRun      bool
	flannelFile string
	flannelList string

	out   io.Writer
	conn  *rtnl.Conn
	rules takeover.Rules
}

func (m *migration) flags() *pflag.FlagSet {
	f := newFlags(&m.options)
	f.StringVar(&m.from, "from", "", "take this node over from `flannel`; an agent with --take-over flannel does the same by itself")
	f.StringVar(&m.to, "to", "", "give this node back to `flannel`; the agent must be stopped")
	f.BoolVar(&m.dryRun, "dry-run", false, "show what would be done, and do nothing")
	f.StringVar(&m.flannelFile, "flannel-subnet-file", "/run/flannel/subnet.env", "`path` of flannel's subnet file")
	f.StringVar(&m.flannelList, "flannel-conflist", "10-flannel.conflist", "file `name` of flannel's CNI configuration list, for --to, if none was set aside here")
	return f
}

// runMigrate is "podnet-agent migrate".
func runMigrate(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	m := migration{out: stdout, rules: flannelRules()}
	if err := m.parse(args, getenv); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return exitOK
		}
		fmt.Fprintf(stderr, "podnet-agent migrate: %v\n", err)
		return exitUsage
	}
	if err := m.run(ctx); err != nil {
		fmt.Fprintf(stderr, "podnet-agent migrate: %v\n", err)
		return exitFault
	}
	return exitOK
}

func (m *migration) parse(args []string, getenv func(string) string) error {
	f := m.flags()
	if err := f.Parse(args); err != nil {
		return err
	}
	faults := environment(f, getenv)
	if f.NArg() > 0 {
		faults = append(faults, fmt.Errorf("argument %q: want flags only", f.Arg(0)))
	}
	if (m.from == fromFlannel) == (m.to == fromFlannel) || m.from+m.to != fromFlannel {
		faults = append(faults, fmt.Errorf("--from %q --to %q: want --from flannel, or --to flannel", m.from, m.to))
	}
	m.cleanup = true // for check: no node name, nodes and network configuration are needed
	faults = append(faults, m.options.check()...)
	if m.cniConfDir == "" {
		faults = append(faults, errors.New(`--cni-conf-dir "": want the directory of the CNI configuration`))
	}
	if !filepath.IsAbs(m.flannelFile) {
		faults = append(faults, fmt.Errorf("--flannel-subnet-file %q: want an absolute path", m.flannelFile))
	}
	if n := m.flannelList; filepath.Base(n) != n || filepath.Ext(n) != ".conflist" {
		faults = append(faults, fmt.Errorf("--flannel-conflist %q: want a file name that ends in .conflist", n))
	}
	return errors.Join(faults...)
}

func (m *migration) run(ctx context.Context) (err error) {
	if !m.dryRun {
		unlock, err := lockNode(m.stateDir)
		if err != nil {
			return err
		}
		defer unlock()
	}
	if err := m.loadNetwork(); err != nil {
		return err
	}
	if m.conn, err = rtnl.Open(rtnl.Options{}); err != nil {
		return err
	}
	defer m.conn.Close()
	if m.from != "" {
		return m.fromFlannel(ctx)
	}
	return m.toFlannel(ctx)
}

func (m *migration) say(format string, args ...any) { fmt.Fprintf(m.out, format+"\n", args...) }

// head begins a part of the report.
func (m *migration) head(what string) {
	if m.dryRun {
		what += " (dry run: nothing is done)"
	}
	m.say("# %s", what)
}

// write shows a plan, and executes it unless this is a dry run.
func (m *migration) write(ctx context.Context, p rtnl.Plan) error {
	for _, c := range p {
		m.say("%s", command(c))
	}
	if m.dryRun {
		return nil
	}
	_, err := reconcile.Write(ctx, m.conn, p)
	return err
}

// command returns a change as the command that would make it.
func command(c rtnl.Change) string {
	s := c.String()
	switch c.Object.(type) {
	case rtnl.Sysctl:
		return s
	case rtnl.FDB:
		return "bridge " + s
	}
	return "ip " + s
}

// kernel reads what takeover has to see.
func (m *migration) kernel(ctx context.Context) (links []rtnl.Link, routes []rtnl.Route, err error) {
	if links, err = m.conn.Links(ctx); err != nil {
		return nil, nil, err
	}
	routes, err = m.conn.Routes(ctx, rtnl.RouteFilter{})
	return links, routes, err
}

func (m *migration) leases(l takeover.List, links []rtnl.Link, subnets []netip.Prefix) takeover.Leases {
	return m.parts(m.conn, nil).LeasesOf(l, masked(subnets), links)
}

func masked(ps []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(ps))
	for i, p := range ps {
		out[i] = p.Masked()
	}
	return out
}

// fromFlannel takes the node over, but for masquerading: flannel's rules stay until an agent has written podnet's.
func (m *migration) fromFlannel(ctx context.Context) error {
	env, err := subnetenv.Read(m.flannelFile)
	if err != nil {
		return fmt.Errorf("--flannel-subnet-file: %w: want the file that flanneld has written on this node", err)
	}
	links, routes, err := m.kernel(ctx)
	if err != nil {
		return err
	}
	m.head("kernel: flannel's devices and routes get podnet's mark, in place")
	if err := m.write(ctx, takeover.FromFlannel(guessNode(env, links, routes), links, routes)); err != nil {
		return err
	}
	lists, err := takeover.FindLists(m.cniConfDir)
	if err != nil {
		return err
	}
	for _, l := range lists {
		if l.Aside {
			continue
		}
		if err := m.takeLeases(ctx, l, links, env); err != nil {
			return err
		}
	}
	parts := m.parts(m.conn, nil)
	m.head("files")
	m.say("write %s", parts.Files.SubnetFile)
	m.say("write %s", parts.Files.Conflist)
	if !m.dryRun {
		if _, err := parts.Files.Apply(env, parts.Conflist()); err != nil {
			return err
		}
	}
	m.head("rules: flannel's go when podnet's stand, which the agent (--take-over flannel) sees to")
	found, err := m.rules.Plan(ctx)
	for _, r := range found {
		m.say("%s", r)
	}
	return err
}

func (m *migration) takeLeases(ctx context.Context, l takeover.List, links []rtnl.Link, env subnetenv.Env) error {
	if *m.network = l.Kept(); !m.dryRun {
		if err := m.network.Save(m.takenOver()); err != nil {
			return err
		}
	}
	leases := m.leases(l, links, env.Subnets)
	m.head(fmt.Sprintf("leases of network %s: from %s to %s", l.Network, leases.HostLocal, leases.Store))
	r, done, err := leases.PlanImport()
	if err != nil {
		return err
	}
	if done {
		m.say("taken over already")
	}
	if !m.dryRun {
		if r, err = leases.Import(ctx); err != nil {
			return err
		}
	}
	m.sayLeases(r)
	m.say("mv %s %s", l.Path, l.Path+takeover.Aside)
	if m.dryRun {
		return nil
	}
	return l.SetAside()
}

func (m *migration) sayLeases(r takeover.Report) {
	for _, lease := range r.Leases {
		m.say("lease %s", lease)
	}
	for _, p := range r.Problems {
		m.say("note: %s", p)
	}
}

// guessNode finds the peers' podCIDRs among the routes: there is nobody to ask.
func guessNode(env subnetenv.Env, links []rtnl.Link, routes []rtnl.Route) takeover.Node {
	n := takeover.Node{Networks: env.Networks, HostGW: true}
	for _, l := range links {
		if l.Kind == rtnl.KindVXLAN && strings.HasPrefix(l.Name, "flannel") {
			n.HostGW = false
		}
	}
	for _, r := range routes {
		direct := r.Protocol == rtnl.ProtocolBoot && r.Gateway.IsValid() && !strings.HasPrefix(r.Link, "flannel")
		inside := slices.ContainsFunc(env.Networks, func(p netip.Prefix) bool { return p.Bits() < r.Dst.Bits() && p.Contains(r.Dst.Addr()) })
		if direct && inside && (n.Uplink == "" || n.Uplink == r.Link) {
			n.Uplink = r.Link
			n.PodCIDRs = append(n.PodCIDRs, r.Dst)
		}
	}
	return n
}

// toFlannel gives the node back. Podnet's masquerading stays until flanneld has written its own: a second run removes it.
func (m *migration) toFlannel(ctx context.Context) error {
	links, routes, err := m.kernel(ctx)
	if err != nil {
		return err
	}
	nexthops, err := m.conn.Nexthops(ctx, rtnl.ProtocolVXLAN)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	m.head("kernel: podnet's devices and routes become such as flannel leaves them, in place")
	renames, plan := takeover.ToFlannel(links, routes, nexthops)
	for _, r := range renames {
		m.say("ip %s", r)
		if m.dryRun {
			continue
		}
		if err := r.Do(); err != nil {
			return err
		}
	}
	if err := m.write(ctx, plan); err != nil {
		return err
	}
	if err := m.filesToFlannel(ctx, links); err != nil {
		return err
	}
	return m.rulesToFlannel(ctx)
}

// filesToFlannel takes podnet's list away first, then moves the leases, and brings flannel's list back last.
func (m *migration) filesToFlannel(ctx context.Context, links []rtnl.Link) error {
	parts := m.parts(m.conn, nil)
	env, err := subnetenv.Read(parts.Files.SubnetFile)
	if errors.Is(err, fs.ErrNotExist) {
		env, err = subnetenv.Read(m.flannelFile) // a second run
	}
	if err != nil {
		return fmt.Errorf("--subnet-file: %w", err)
	}
	lists, err := takeover.FindLists(m.cniConfDir)
	if err != nil {
		return err
	}
	made := len(lists) == 0
	if made {
		l, ok := takeover.ParseList([]byte(takeover.Default))
		if !ok {
			return errors.New("flannel's own list cannot be read")
		}
		l.Path = filepath.Join(m.cniConfDir, m.flannelList)
		lists = []takeover.List{l}
	}
	m.head("files")
	if parts.Files.Stands() {
		m.say("rm %s", parts.Files.Conflist)
	}
	if !m.dryRun {
		if err := removeFile(parts.Files.Conflist); err != nil {
			return err
		}
	}
	for _, l := range lists[:1] {
		if err := m.giveLeases(ctx, l, links, env); err != nil {
			return err
		}
	}
	for _, l := range lists {
		switch {
		case made:
			m.say("write %s", l.Path)
		case l.Aside:
			m.say("mv %s %s", l.Path+takeover.Aside, l.Path)
		}
		if m.dryRun {
			continue
		}
		if made {
			err = os.WriteFile(l.Path, []byte(takeover.Default), 0o600)
		} else {
			err = l.BringBack()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *migration) giveLeases(ctx context.Context, l takeover.List, links []rtnl.Link, env subnetenv.Env) error {
	leases := m.leases(l, links, env.Subnets)
	m.head(fmt.Sprintf("leases of network %s: from %s to %s", l.Network, leases.Store, leases.HostLocal))
	r, done, err := leases.PlanExport(ctx)
	if err != nil {
		return err
	}
	if done {
		m.say("handed over already")
	}
	if !m.dryRun {
		conf := l.Delegated(env.Networks, env.Subnets, env.MTU, env.IPMasq)
		if r, err = leases.Export(ctx, l.FlannelDir, func(ipam.Owner) []byte { return conf }); err != nil {
			return err
		}
	}
	m.sayLeases(r)
	return nil
}

// rulesToFlannel removes podnet's rules if flannel's stand.
func (m *migration) rulesToFlannel(ctx context.Context) error {
	masquerade := masq.New(&masq.Netfilter{}, masq.Options{})
	ours, err := masquerade.Plan(ctx, masq.Config{})
	if err != nil || len(ours) == 0 {
		return err
	}
	found, err := m.rules.Plan(ctx)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		m.say("# rules: podnet's stay until flanneld has written its own. Start flanneld, then run this once more.")
		return nil
	}
	m.head("rules: flannel's stand, podnet's go")
	m.say("%s", takeover.Commands(ours))
	if m.dryRun {
		return nil
	}
	if _, err = masquerade.Apply(ctx, masq.Config{}); err != nil {
		return err
	}
	// Forgotten, not cleaned up: where both have written the same path, the file is flannel's now.
	files := m.parts(m.conn, nil).Files
	errs := []error{removeFile(files.Record), removeFile(m.takenOver())}
	if files.SubnetFile != m.flannelFile {
		errs = append(errs, removeFile(files.SubnetFile))
	}
	return errors.Join(errs...)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
