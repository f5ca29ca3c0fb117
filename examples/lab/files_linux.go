package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
)

func (t *topology) path(elem ...string) string {
	return filepath.Join(append([]string{t.dir}, elem...)...)
}
func (n *node) path(elem ...string) string {
	return filepath.Join(append([]string{n.dir}, elem...)...)
}

// netConf is flannel's net-conf.json, which the agents read.
func (t *topology) netConf() []byte {
	conf := map[string]any{"EnableIPv4": false, "EnableIPv6": false}
	for _, v6 := range t.families() {
		if v6 {
			conf["EnableIPv6"], conf["IPv6Network"] = true, clusterCIDRs[1]
		} else {
			conf["EnableIPv4"], conf["Network"] = true, clusterCIDRs[0]
		}
	}
	backend := map[string]any{"Type": t.backend}
	if t.backend == "vxlan" {
		backend["DirectRouting"] = true
	}
	conf["Backend"] = backend
	out, err := json.MarshalIndent(conf, "", "  ")
	if err != nil {
		panic(err) // maps of strings and prefixes always marshal
	}
	return append(out, '\n')
}

// descriptor is the node as the file source of podnet-agent reads it.
func (n *node) descriptor() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "name: %s\npodCIDRs:\n", n.name)
	for _, p := range n.podCIDRs {
		fmt.Fprintf(&b, "- %q\n", p)
	}
	fmt.Fprintf(&b, "addresses:\n")
	for _, a := range n.ports[0].addrs {
		fmt.Fprintf(&b, "- %q\n", a.Addr())
	}
	return b.Bytes()
}
