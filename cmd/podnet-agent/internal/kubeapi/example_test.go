package kubeapi_test

import (
	"context"
	"fmt"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi/kubeapitest"
)

func ExampleClient_ListNodes() {
	server := kubeapitest.Start()
	defer server.Close()
	server.Put(kubeapitest.Fill(kubeapitest.Node("a", 1, []string{"10.244.1.0/24"}, []string{"192.168.1.1"})))
	client, err := kubeapi.New(server.Config(), "flannel.alpha.coreos.com/")
	if err != nil {
		panic(err)
	}
	meta, err := client.ListNodes(context.Background(), 500, "", func(n kubeapi.Node) {
		fmt.Println(n.Name, n.PodCIDRs, n.Addresses)
	})
	fmt.Println(meta.ResourceVersion, meta.Continue == "", err)
	// Output:
	// a [10.244.1.0/24] [{InternalIP 192.168.1.1}]
	// 101 true <nil>
}
