package servicetest

import (
	"embed"
	"io/fs"
)

//go:embed testdata/flows/*.yaml
var flows embed.FS

// Flows returns the packet flow tables: files of Services and EndpointSlices as Kubernetes writes them, with packets and what must become of each. testdata/flows/README.md says
// how they are written. They are data for every dataplane, ours or not; podnet's own tests read them with service/internal/flowtable.
func Flows() fs.FS {
	sub, err := fs.Sub(flows, "testdata/flows")
	if err != nil {
		panic(err) // the path above is a constant
	}
	return sub
}
