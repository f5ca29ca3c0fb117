package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/podnet/podnet/rtnl"
)

// blocked has a node join on which devices of another kind have the names of the agent's VTEPs, so that no route can stand. The condition
// NetworkUnavailable has to say so, and turn once they are out of the way. Then the node leaves again.
func (l *lab) blocked(ctx context.Context, n *node) {
	const name = "node whose VTEP cannot be made"
	if l.backend != "vxlan" {
		l.report.skip(name, "host-gw has no VTEP")
		return
	}
	said, took, turned, err := l.runBlocked(ctx, n)
	if n.agent != nil {
		n.agent.stop(syscall.SIGKILL)
	}
	err = errors.Join(err, l.cluster.remove(context.WithoutCancel(ctx), n.name))
	l.report.add(row{Name: name, Cells: []cell{result("NetworkUnavailable True, False once it can", err)},
		Detail: fmt.Sprintf("True after %.1f s: %s: %q; False %s after the way was free", took.Seconds(), said.Reason, shorten(said.Message), ms(turned))})
}

func (l *lab) runBlocked(ctx context.Context, n *node) (said condition, took, turned time.Duration, err error) {
	names, err := vteps(ctx, l.nodes[0])
	if err != nil {
		return said, 0, 0, err
	}
	var block, clear rtnl.Plan
	for _, device := range names {
		block = append(block, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: device, Kind: rtnl.KindBridge}})
		clear = append(clear, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: device}})
	}
	if err := errors.Join(n.makeDirs(), l.plug(ctx, &n.machine), write(ctx, n.netns, block)); err != nil {
		return said, 0, 0, err
	}
	if err := errors.Join(l.cluster.join(ctx, n, nil), l.startAgent(n)); err != nil {
		return said, 0, 0, err
	}
	took, err = poll(ctx, 20*time.Second, func() error {
		o, err := l.cluster.node(ctx, n.name)
		if err == nil {
			if said = o.condition("NetworkUnavailable"); said.Status != "True" {
				err = fmt.Errorf("NetworkUnavailable %q, want True", said.Status)
			}
		}
		return err
	})
	if err != nil {
		return said, took, 0, err
	}
	if said.Reason == "" || !strings.Contains(said.Message, names[0]) {
		return said, took, 0, fmt.Errorf("reason %q, message %q: want a message that names %s", said.Reason, said.Message, names[0])
	}
	if err := write(ctx, n.netns, clear); err != nil {
		return said, took, 0, err
	}
	freed := time.Now()
	err = l.saysAvailable(ctx, n, l.nodes)
	return said, took, time.Since(freed), err
}

// vteps returns the names of a node's VXLAN devices.
func vteps(ctx context.Context, n *node) ([]string, error) {
	conn, err := rtnl.Open(rtnl.Options{Netns: n.netns})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	links, err := conn.Links(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, link := range links {
		if link.Kind == rtnl.KindVXLAN {
			names = append(names, link.Name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no VTEP", n.name)
	}
	return names, nil
}

// shorten returns the beginning of a text, for one line of the table.
func shorten(s string) string {
	const most = 160
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
