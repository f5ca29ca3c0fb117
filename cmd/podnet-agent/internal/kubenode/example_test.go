package kubenode_test

import (
	"context"
	"fmt"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/flannel"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi/kubeapitest"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubenode"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
)

// A node that runs flannel, one without an agent yet, and one that was given a podCIDR that another has.
func ExampleSource() {
	server := kubeapitest.Start()
	defer server.Close()
	flanneld := kubeapitest.Node("flanneld", 1, []string{"10.244.1.0/24"}, []string{"192.168.1.1"})
	flanneld.Annotations["flannel.alpha.coreos.com/backend-type"] = "vxlan"
	flanneld.Annotations["flannel.alpha.coreos.com/backend-data"] = `{"VNI":1,"VtepMAC":"8e:12:fe:33:01:02"}`
	server.Put(flanneld)
	server.Put(kubeapitest.Node("new", 2, []string{"10.244.2.0/24"}, []string{"192.168.1.2"}))
	server.Put(kubeapitest.Node("double", 3, []string{"10.244.1.0/24"}, []string{"192.168.1.3"}))

	keys, _ := flannel.NewKeys(flannel.DefaultPrefix)
	client, err := kubeapi.New(server.Config(), keys.Prefix)
	if err != nil {
		panic(err)
	}
	source := kubenode.New(client, kubenode.Options{NodeName: "here", Keys: keys, Net: netconf.Config{Backend: netconf.Backend{Type: netconf.VXLAN}}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	known := make(chan bool, 1)
	go func() {
		done <- source.Run(ctx, func() {
			select {
			case known <- true:
			default:
			}
		})
	}()
	<-known
	for _, n := range source.Snapshot().Nodes {
		fmt.Printf("%s %v %v %q\n", n.Name, n.PodCIDRs, n.Addresses, n.VTEPMAC)
	}
	fmt.Println(source.Snapshot().Problems)
	cancel()
	<-done
	// Output:
	// flanneld [10.244.1.0/24] [192.168.1.1] "8e:12:fe:33:01:02"
	// new [10.244.2.0/24] [192.168.1.2] ""
	// [node "double": podCIDR 10.244.1.0/24 is that of the older node "flanneld"]
}
