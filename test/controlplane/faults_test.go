package controlplane_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"testing"

	"github.com/podnet/podnet/test/controlplane"
	"github.com/podnet/podnet/test/controlplane/controlplanetest"
)

// expired is the fault 410: a restarted API server does not know what happened before it started.
func expired(t *testing.T, c *controlplane.ControlPlane) {
	var list struct {
		Metadata struct{ ResourceVersion string }
	}
	if err := c.Admin().Do(t.Context(), http.MethodGet, "/api/v1/nodes", nil, &list); err != nil {
		t.Fatal(err)
	}
	createNode(t, c, "node-c") // so that the cluster has gone on since
	if err := c.Kill(controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context(), controlplane.APIServer); err != nil {
		t.Fatal(err)
	}
	var event struct {
		Type   string
		Object struct{ Code int }
	}
	watch := "/api/v1/nodes?watch=1&timeoutSeconds=5&resourceVersion=" + list.Metadata.ResourceVersion
	err := c.Admin().Do(t.Context(), http.MethodGet, watch, nil, &event)
	if err != nil || event.Type != "ERROR" || event.Object.Code != http.StatusGone {
		t.Errorf("watch from before the restart: %+v, %v: want an ERROR event with 410", event, err)
	}
}

// tooMany is the fault 429: priority and fairness let a user have one request at a time, and refuse what comes meanwhile.
func tooMany(t *testing.T, c *controlplane.ControlPlane) {
	const flow = "/apis/flowcontrol.apiserver.k8s.io/v1/"
	none := object{
		"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": object{"name": "none"},
		"spec": object{"type": "Limited", "limited": object{"nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": object{"type": "Reject"}}},
	}
	rule := object{
		"subjects":      []object{{"kind": "User", "user": object{"name": "nobody"}}},
		"resourceRules": []object{{"verbs": []string{"*"}, "apiGroups": []string{"*"}, "resources": []string{"*"}, "clusterScope": true, "namespaces": []string{"*"}}},
	}
	schema := object{
		"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": object{"name": "none"},
		"spec": object{"matchingPrecedence": 2, "priorityLevelConfiguration": object{"name": "none"}, "rules": []object{rule}},
	}
	if err := c.Admin().Do(t.Context(), http.MethodPost, flow+"prioritylevelconfigurations", none, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Admin().Do(t.Context(), http.MethodPost, flow+"flowschemas", schema, nil); err != nil {
		t.Fatal(err)
	}
	nobody := c.Client(c.UserToken("nobody"))
	// burst sends requests at once and tells how many were refused with 429. One at a time is always served.
	burst := func() (refused int) {
		codes := make(chan int)
		const n = 32
		for range n {
			go func() {
				var status *controlplane.StatusError
				if errors.As(nobody.Do(t.Context(), http.MethodGet, "/api/v1/nodes", nil, nil), &status) {
					codes <- status.Code
				} else {
					codes <- 0
				}
			}()
		}
		for range n {
			if <-codes == http.StatusTooManyRequests {
				refused++
			}
		}
		return refused
	}
	eventually(t, func() error {
		if burst() == 0 {
			return errors.New("no request of a burst was refused with 429")
		}
		return nil
	})
	if err := c.Admin().Do(t.Context(), http.MethodDelete, flow+"flowschemas/none", nil, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if n := burst(); n != 0 {
			return fmt.Errorf("%d requests of a burst were refused with 429", n)
		}
		return nil
	})
}

func TestOneFamily(t *testing.T) {
	for _, tt := range []struct {
		name, address, cluster string
		mask                   int
	}{
		{"ipv4", "127.0.0.1", "10.0.0.0/8", 26},
		{"ipv6", "::1", "fd00:10:244::/48", 60},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := controlplanetest.Start(t, controlplane.Config{
				Addresses:    []netip.Addr{netip.MustParseAddr(tt.address)},
				ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix(tt.cluster)},
				MaskSizes:    []int{tt.mask},
			})
			createNode(t, c, "node")
			eventually(t, func() error {
				n, err := getNode(t, c, "node")
				if err == nil && (len(n.Spec.PodCIDRs) != 1 || netip.MustParsePrefix(n.Spec.PodCIDRs[0]).Bits() != tt.mask) {
					err = fmt.Errorf("podCIDRs %v, want one /%d", n.Spec.PodCIDRs, tt.mask)
				}
				return err
			})
		})
	}
}
