package podnet_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadme compiles the Go code in README.md, each block as the body of a function that has the names which stand for the reader's own things.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	imports := map[string]string{
		"fmt": "fmt", "netip": "net/netip", "rtnl": module + "/rtnl", "rtnltest": module + "/rtnl/rtnltest", "hostgw": module + "/hostgw", "service": module + "/service", "nft": module + "/service/nft",
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	overlay := map[string]map[string]string{"Replace": {}} // files that stand in the module for the compiler only
	var packages []string
	blocks := strings.Split(string(text), "\n```go\n")[1:]
	for i, block := range blocks {
		code, _, _ := strings.Cut(block, "\n```")
		var b strings.Builder
		b.WriteString("package readme\n\nimport (\n\t\"context\"\n")
		spoken := regexp.MustCompile(`//.*`).ReplaceAllString(code, "")
		for name, path := range imports {
			if strings.Contains(spoken, name+".") && name != "netip" && name != "service" {
				fmt.Fprintf(&b, "\t%q\n", path)
			}
		}
		fmt.Fprintf(&b, "\t\"net/netip\"\n\t%q\n)\n\n", imports["service"])
		b.WriteString("func _(ctx context.Context, nodeIP, peerIP, vip, server1, server2 netip.Addr, podCIDR, peerPodCIDR netip.Prefix, web service.Name) error {\n" + code + "\nreturn nil\n}\n")
		file := filepath.Join(t.TempDir(), "readme.go")
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		dir := fmt.Sprintf("examples/readme%d", i)
		overlay["Replace"][filepath.Join(here, dir, "readme.go")] = file
		packages = append(packages, "./"+dir)
	}
	if len(packages) == 0 {
		t.Fatal("README.md has no Go code")
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(path, list, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", append([]string{"build", "-overlay", path}, packages...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
