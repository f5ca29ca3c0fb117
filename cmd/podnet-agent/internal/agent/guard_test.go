package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
)

func names(nodes []node.Node) string {
	var out []string
	for _, n := range nodes {
		out = append(out, strings.TrimPrefix(n.Name, "node-"))
	}
	return strings.Join(out, " ")
}

func TestGuard(t *testing.T) {
	start := time.Unix(0, 0)
	all := nodes(9)
	successor := all[8]
	successor.PodCIDRs = all[4].PodCIDRs
	type look struct {
		after time.Duration
		nodes []node.Node
		want  string
		held  bool
	}
	for _, tt := range []struct {
		name  string
		looks []look
	}{
		{"some go", []look{{0, all[:7], "1 2 3 4 5 6 7", false}, {0, all[:4], "1 2 3 4", false}, {1, all[:2], "1 2 3 4 5 6 7", true}}},
		{"one after the other", []look{{0, all[:8], "1 2 3 4 5 6 7 8", false}, {1, all[:7], "1 2 3 4 5 6 7", false}, {2, all[:6], "1 2 3 4 5 6", false}, {3, all[:5], "1 2 3 4 5", false},
			{4, all[:4], "1 2 3 4 5 6 7 8", true}, {5, all[:3], "1 2 3 4 5 6 7 8", true}, {63, all[:3], "1 2 3 4 5 6 7 8", true}, {65, all[:3], "1 2 3", false}}},
		{"slowly", []look{{0, all[:8], "1 2 3 4 5 6 7 8", false}, {50, all[:6], "1 2 3 4 5 6", false}, {120, all[:4], "1 2 3 4", false}, {190, all[:2], "1 2", false}}},
		{"most go, and come back", []look{{0, all[:7], "1 2 3 4 5 6 7", false}, {1, all[:3], "1 2 3 4 5 6 7", true}, {2, all[:7], "1 2 3 4 5 6 7", false}}},
		{"all go for good", []look{{0, all[:5], "1 2 3 4 5", false}, {1, all[:1], "1 2 3 4 5", true}, {59, all[:1], "1 2 3 4 5", true}, {61, all[:1], "1", false}, {62, all[:1], "1", false}}},
		{"few peers", []look{{0, all[:4], "1 2 3 4", false}, {1, all[:1], "1", false}}},
		{"a successor has what one had", []look{{0, all[:5], "1 2 3 4 5", false}, {1, []node.Node{all[0], successor}, "1 9 2 3 4", true}}},
		{"own node", []look{{0, all[:5], "1 2 3 4 5", false}, {1, all[1:5], "2 3 4 5", false}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guard{hold: time.Minute}
			for i, l := range tt.looks {
				got, note, left := g.filter(start.Add(l.after*time.Second), l.nodes, "node-1")
				if names(got) != l.want || (note != "") != l.held || (left > 0) != l.held {
					t.Errorf("look %d: %s (%q, %v left), want %s, held %v", i, names(got), note, left, l.want, l.held)
				}
			}
		})
	}
	g := guard{hold: time.Minute, last: all[:6]} // an earlier run knew them
	if got, note, _ := g.filter(start, all[:1], "node-1"); len(got) != 6 || note == "" {
		t.Errorf("after a restart: %s %q", names(got), note)
	}
	g = guard{}
	g.filter(start, all, "node-1")
	if got, note, _ := g.filter(start, all[:1], "node-1"); len(got) != 1 || note != "" {
		t.Errorf("off: %s %q", names(got), note)
	}
}
