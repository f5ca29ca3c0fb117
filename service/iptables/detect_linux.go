package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/podnet/podnet/service"
)

// Detect finds out which variant the other programs of a host use, as rules of both are evaluated but know nothing of each other: the one in which the kubelet has put its hint
// (the chain KUBE-IPTABLES-HINT, Kubernetes 1.24, or KUBE-KUBELET-CANARY), else Auto. It also says why. Netns is as in [Tools].
func Detect(ctx context.Context, netns string) (v Variant, why string, err error) {
	var errs []error
	for _, v := range []Variant{NFT, Legacy} {
		for _, f := range service.Families() {
			text, err := (&Tools{Netns: netns, Variant: v}).Save(ctx, f, "mangle")
			if err != nil {
				errs = append(errs, err)
				continue
			}
			for _, hint := range []string{"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"} {
				if strings.Contains(text, "\n:"+hint+" ") {
					return v, fmt.Sprintf("the kubelet's chain %s is in the %s tables", hint, v), nil
				}
			}
		}
	}
	if ctx.Err() != nil {
		return Auto, "", ctx.Err()
	}
	if _, err := (&Tools{Netns: netns}).path(service.IPv4); err != nil {
		return Auto, "", errors.Join(append(errs, err)...)
	}
	return Auto, "no hint of the kubelet: the host's iptables decides", nil
}
