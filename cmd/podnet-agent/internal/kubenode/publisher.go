package kubenode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/agent"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/flannel"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/rtnl"
)

// Writer is what a Publisher asks of the API server.
type Writer interface {
	PatchNodeStatus(ctx context.Context, name string, patch any) (kubeapi.Node, error)
	CreateEvent(ctx context.Context, namespace string, event any) error
	PatchEvent(ctx context.Context, namespace, name string, patch any) error
}

// PublisherOptions are what a Publisher works with.
type PublisherOptions struct {
	NodeName  string
	Keys      flannel.Keys
	Condition bool          // keep the condition NetworkUnavailable
	PublicIPs [2]netip.Addr // IPv4 and IPv6: published instead of the uplink's, if they are set
	Logger    *slog.Logger  // nil = discard
}

// Publisher keeps what this node's Node object says of its network: the annotations, the condition NetworkUnavailable, and Events.
type Publisher struct {
	api     Writer
	source  *Source
	o       PublisherOptions
	log     *slog.Logger
	outcome atomic.Pointer[agent.Outcome]
	wake    chan struct{}

	// Of Run's goroutine only.
	annotations map[string]string // as they should be; a key that should not be there has ""
	lastUp      time.Time         // when everything stood
	written     uint64            // version of our own last patch
	until       time.Time         // until when older ones are not looked at
	budget      bucket
	failures    int
	warned      string
	reason      string // of the condition, as the log has it
	events      recorder
}

// NewPublisher returns a Publisher for the node that source sees. It asks nobody before Run.
func NewPublisher(api Writer, source *Source, o PublisherOptions) *Publisher {
	p := &Publisher{api: api, source: source, o: o, log: o.Logger, wake: make(chan struct{}, 1), budget: bucket{size: 10, every: 5 * time.Second}}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.events = newRecorder(api, source.metrics, p.log, o)
	return p
}

// Observe takes what a pass of the agent came to. It does not block.
func (p *Publisher) Observe(o agent.Outcome) {
	p.outcome.Store(&o)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

const (
	unavailableAfter = 10 * time.Second // the network does not stand: until then it may be starting, or healing
	lookEvery        = 5 * time.Second
	// ownPatchWithin is how long the watch may take to tell of our own patch. While 5,000 agents start it is behind: publishing again meanwhile would tell all of
	// them once more, and the watches would never catch up (package sim).
	ownPatchWithin = 2 * time.Minute
)

// Run publishes until ctx ends. What fails is tried again.
func (p *Publisher) Run(ctx context.Context) error {
	p.lastUp = time.Now()
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.wake:
		case <-p.source.own:
		case <-timer.C:
		}
		pause := p.look(ctx)
		if p.failures > 0 && !sleep(ctx, pause) { // no event hurries a server that refuses
			return ctx.Err()
		}
		timer.Reset(min(pause, lookEvery))
	}
}

// look compares once what is published with what should be, and returns when to do so again.
func (p *Publisher) look(ctx context.Context) time.Duration {
	now := time.Now()
	own := p.source.store.ownState()
	o := p.outcome.Load()
	if o == nil || own.node == nil {
		return lookEvery
	}
	if p.source.older.Swap(false) {
		p.written = 0
	}
	if version, err := strconv.ParseUint(own.node.ResourceVersion, 10, 64); err == nil && version < p.written && now.Before(p.until) {
		return time.Second // the watch has not come to our own patch yet
	}
	if o.Converged && own.conflict.loserIs(p.o.NodeName) == "" {
		p.lastUp = now
	}
	p.want(*o, *own.node)
	condition := p.condition(*o, own, now)
	p.report(ctx, *o, own, condition, now)
	patch := p.patch(*own.node, condition, now)
	if patch == nil {
		p.failures = 0
		return lookEvery
	}
	if wait := p.budget.take(now); wait > 0 {
		return wait // somebody undoes what we write, again and again
	}
	return p.send(ctx, patch, *own.node)
}

func (p *Publisher) send(ctx context.Context, patch map[string]any, own kubeapi.Node) time.Duration {
	node, err := p.api.PatchNodeStatus(ctx, p.o.NodeName, patch)
	p.source.metrics.count("patch", err)
	if err == nil {
		p.failures, p.warned = 0, ""
		p.written, _ = strconv.ParseUint(node.ResourceVersion, 10, 64)
		p.until = time.Now().Add(ownPatchWithin)
		p.log.Debug("published", "node", p.o.NodeName, "patch", patch)
		return lookEvery
	}
	p.failures++
	if ctx.Err() == nil && p.warned != err.Error() {
		p.log.Warn("what this node is cannot be published", "node", p.o.NodeName, "err", err)
		p.warned = err.Error()
	}
	var status *kubeapi.StatusError
	if errors.As(err, &status) && status.Code == 403 {
		p.events.record(ctx, own, warning, "PodnetForbidden", "podnet-agent may not patch nodes/status of its own node, so that peers do not learn its address: apply the RBAC of deploy/: "+status.Message)
	}
	d := backoffMost
	if p.failures < 6 {
		d = min(d, time.Second<<(p.failures-1))
	}
	if status != nil {
		d = max(d, status.Wait)
	}
	return d/2 + rand.N(d)
}

// want works out the annotations from a pass in which the backend stands. Before, and while it does not, they stay as they were: peers know
// nothing better.
func (p *Publisher) want(o agent.Outcome, own kubeapi.Node) {
	d := o.Desired
	backend := d.Net.Backend.Type
	for _, s := range o.States {
		if (s.Name == backend || s.Name == "uplink") && s.Text != "" {
			return
		}
	}
	if len(d.Locals) == 0 {
		return
	}
	said, _ := p.o.Keys.Decode(own.Annotations) // what the administrator wrote; faults are among the problems of the source
	a := flannel.Annotations{Managed: true, BackendType: backend}
	for _, l := range d.Locals {
		f := a.Of(l.Family)
		f.Data.Present = true
		if backend == netconf.VXLAN {
			f.Data.VNI, f.Data.MAC = d.Net.Backend.VNI, d.VTEPMAC(l.Family)
		}
		f.PublicIP = l.Addr
		if i := p.o.PublicIPs[familyIndex(l.Family)]; i.IsValid() && !said.Of(l.Family).NodePublicIP.IsValid() {
			f.PublicIP = i
		}
		if o := said.Of(l.Family).Overwrite; o.IsValid() {
			f.PublicIP = o
		}
	}
	p.annotations = p.o.Keys.Encode(a)
	if len(d.Locals) < len(d.Net.Networks) {
		return // a family that is missing for now is not taken back
	}
	for _, key := range p.o.Keys.Published() {
		if _, ok := p.annotations[key]; !ok {
			p.annotations[key] = ""
		}
	}
}

// patch returns what has to change, or nil. It names the UID: another Node of that name has nothing to do with what was seen.
func (p *Publisher) patch(own kubeapi.Node, condition *kubeapi.Condition, now time.Time) map[string]any {
	annotations := map[string]any{}
	for key, want := range p.annotations {
		have, ok := own.Annotations[key]
		switch {
		case want == "" && ok:
			annotations[key] = nil
		case want != "" && have != want:
			annotations[key] = want
		}
	}
	out := map[string]any{}
	if len(annotations) > 0 {
		out["metadata"] = map[string]any{"uid": own.UID, "annotations": annotations}
	}
	if condition != nil && *condition != own.Network {
		stamp := now.UTC().Format(time.RFC3339)
		c := map[string]any{
			"type": kubeapi.NetworkUnavailable, "status": condition.Status, "reason": condition.Reason, "message": condition.Message, "lastHeartbeatTime": stamp,
		}
		if condition.Status != own.Network.Status {
			c["lastTransitionTime"] = stamp
		}
		out["status"] = map[string]any{"conditions": []any{c}}
		if out["metadata"] == nil {
			out["metadata"] = map[string]any{"uid": own.UID}
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// ReasonUp is the reason of NetworkUnavailable=False.
const ReasonUp = "PodnetIsUp"

// condition returns what NetworkUnavailable should be, or nil: not known, or not ours to say.
func (p *Publisher) condition(o agent.Outcome, own ownState, now time.Time) *kubeapi.Condition {
	if !p.o.Condition || o.Desired.Net.Backend.Type == netconf.Alloc {
		return nil // with alloc, whoever makes the routes in the cloud keeps it
	}
	conflict := own.conflict.loserIs(p.o.NodeName)
	if o.Converged && conflict == "" {
		return &kubeapi.Condition{Status: "False", Reason: ReasonUp, Message: "podnet-agent has put the routes to the other nodes into the kernel"}
	}
	if conflict == "" && now.Sub(p.lastUp) < unavailableAfter {
		return nil
	}
	reason, message := diagnose(o, own, p.o.NodeName)
	c := &kubeapi.Condition{Status: "True", Reason: reason, Message: message}
	if own.node.Network.Status == c.Status && own.node.Network.Reason == c.Reason {
		c.Message = own.node.Network.Message // numbers in a message change with every try
	}
	return c
}

// diagnose says what is wrong, and what to do about it.
func diagnose(o agent.Outcome, own ownState, name string) (reason, message string) {
	if c := own.conflict.loserIs(name); c != "" {
		return "NodeConflict", cut(c + ": delete the Node object that is no more, or give this node another podCIDR or address")
	}
	for _, s := range o.States {
		if !s.Failed() {
			continue
		}
		switch s.Name {
		case "node":
			if len(own.node.PodCIDRs) == 0 {
				return "NoPodCIDR", cut("this node has no podCIDR: run kube-controller-manager with --allocate-node-cidrs and a --cluster-cidr with room for another node, or set spec.podCIDR")
			}
			return "NodeNotUsable", cut(s.Text + ": compare spec.podCIDRs and status.addresses of the node with Network in net-conf.json")
		case "uplink":
			return "NoUplink", cut(s.Text)
		case netconf.VXLAN, netconf.HostGW:
			return "RoutesMissing", cut("backend " + s.Name + ": " + s.Text)
		}
		return "NetworkIncomplete", cut(s.Name + ": " + s.Text)
	}
	return "Starting", "podnet-agent has not come to an end yet"
}

// cut makes a text fit an Event or a condition.
func cut(s string) string {
	const most = 900
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// report tells the operator by Events what changed.
func (p *Publisher) report(ctx context.Context, o agent.Outcome, own ownState, c *kubeapi.Condition, now time.Time) {
	switch {
	case o.Converged && own.conflict.loserIs(p.o.NodeName) == "":
		if p.reason != "" && p.reason != ReasonUp {
			p.events.record(ctx, *own.node, normal, ReasonUp, "podnet-agent has put the routes to the other nodes into the kernel")
		}
		p.reason = ReasonUp
	case own.conflict.loserIs(p.o.NodeName) != "" || now.Sub(p.lastUp) >= unavailableAfter:
		reason, message := diagnose(o, own, p.o.NodeName)
		if c != nil {
			message = c.Message
		}
		p.reason = reason
		p.events.record(ctx, *own.node, warning, reason, message)
	}
	if own.conflict != nil && own.conflict.loser != p.o.NodeName {
		p.events.record(ctx, *own.node, warning, "NodeConflict", cut(own.conflict.String()+
			": nothing changes for this node; delete the Node object that is no more, or give the younger node another podCIDR or address"))
	}
	if n := len(o.LeftOut); n > 0 {
		p.events.record(ctx, *own.node, warning, "PeersLeftOut", cut(fmt.Sprintf("%d of %d peers cannot be reached from here: %s", n, len(o.Desired.Peers), o.LeftOut[0])))
	}
}

// loserIs returns what a conflict is about if that node has to give way in it.
func (c *conflict) loserIs(name string) string {
	if c == nil || c.loser != name {
		return ""
	}
	return c.String()
}

// bucket allows a burst, then one thing at a time.
type bucket struct {
	size  int
	every time.Duration
	used  int
	since time.Time // when the oldest of the used was given back
}

// take takes one, or returns how long to wait for it.
func (b *bucket) take(now time.Time) time.Duration {
	if back := int(now.Sub(b.since) / b.every); back >= b.used {
		b.used, b.since = 0, now
	} else if back > 0 {
		b.used -= back
		b.since = b.since.Add(time.Duration(back) * b.every)
	}
	if b.used >= b.size {
		return b.since.Add(b.every).Sub(now)
	}
	b.used++
	return 0
}

func familyIndex(f rtnl.Family) int {
	if f == rtnl.IPv6 {
		return 1
	}
	return 0
}
