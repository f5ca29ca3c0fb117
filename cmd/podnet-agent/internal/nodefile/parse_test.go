package nodefile

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestParse reads every file of testdata/parse and compares what was understood with the golden file beside it.
func TestParse(t *testing.T) {
	files, err := filepath.Glob("testdata/parse/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, ".golden") {
			continue
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := print(parse(data, filepath.Ext(path) == ".json", nil))
			if *update {
				if err := os.WriteFile(path+".golden", []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path + ".golden")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func print(docs []document) string {
	var b strings.Builder
	for _, d := range docs {
		if d.err != nil {
			fmt.Fprintf(&b, "line %d: name %q: error: %s\n", d.line, d.name, oneLine(d.err))
			continue
		}
		fmt.Fprintf(&b, "line %d: %s pods %v addresses %v mac %q\n", d.line, d.node.Name, d.node.PodCIDRs, d.node.Addresses, d.node.VTEPMAC)
	}
	return b.String()
}

func TestParseBounds(t *testing.T) {
	docs := parse([]byte("name: a\n# "+strings.Repeat("x", maxDocument)), false, nil)
	if len(docs) != 1 || docs[0].err == nil || docs[0].err.Error() != "1048586 bytes: want at most 1048576" {
		t.Errorf("got %s", print(docs))
	}
}

// FuzzDescriptor feeds what a file may hold. Nothing may panic, and what is accepted must be valid and come out the same again.
func FuzzDescriptor(f *testing.F) {
	files, err := filepath.Glob("testdata/parse/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, false)
		f.Add(data, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, isJSON bool) {
		for _, d := range parse(data, isJSON, nil) {
			if d.err != nil {
				if strings.Contains(oneLine(d.err), "\n") {
					t.Errorf("error of several lines: %q", d.err)
				}
				continue
			}
			if err := d.node.Validate(); err != nil {
				t.Errorf("accepted: %v", err)
			}
			text := fmt.Sprintf("name: %q\npodCIDRs: [", d.node.Name)
			for _, p := range d.node.PodCIDRs {
				text += fmt.Sprintf("%q,", p.String())
			}
			text += "]\naddresses: ["
			for _, a := range d.node.Addresses {
				text += fmt.Sprintf("%q,", a.String())
			}
			text += "]\n"
			if !d.node.VTEPMAC.IsZero() {
				text += fmt.Sprintf("vtepMAC: %q\n", d.node.VTEPMAC.String())
			}
			again := parse([]byte(text), false, nil)
			if len(again) != 1 || again[0].err != nil || !again[0].node.Equal(d.node) {
				t.Errorf("%q gave %s, written again %s", data, print([]document{d}), print(again))
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	var text strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&text, "---\nname: node-%d\npodCIDRs: [10.%d.%d.0/24, \"fd00:b:%x::/64\"]\naddresses: [192.168.%d.%d]\n", i, i>>8, i&255, i, i>>8, i&255)
	}
	for b.Loop() {
		parse([]byte(text.String()), false, nil)
	}
}
