package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"
	"time"
)

// The parts of CycloneDX 1.6 that an SBOM of a Go binary needs.
type (
	bill struct {
		Schema       string       `json:"$schema"`
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Serial       string       `json:"serialNumber"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp"`
		Component component `json:"component"`
	}
	component struct {
		Type       string     `json:"type"`
		Ref        string     `json:"bom-ref"`
		Name       string     `json:"name"`
		Version    string     `json:"version"`
		PURL       string     `json:"purl"`
		Hashes     []sum      `json:"hashes,omitempty"`
		Licenses   []choice   `json:"licenses,omitempty"`
		Properties []property `json:"properties,omitempty"`
	}
	sum struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	choice struct {
		License struct {
			ID string `json:"id"`
		} `json:"license"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn,omitempty"`
	}
)

// sbom tells what a binary was linked from, as the linker wrote into it: what is in the binary, not what go.mod lists.
func sbom(name, version, arch string, binary []byte, at time.Time) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(binary)
	self := component{
		Type: "application", Name: name, Version: version,
		PURL:       fmt.Sprintf("pkg:golang/%s@%s?goarch=%s&goos=linux#cmd/%s", info.Main.Path, version, arch, name),
		Hashes:     []sum{{"SHA-256", hex.EncodeToString(hash[:])}},
		Properties: []property{{"go:version", info.GoVersion}},
	}
	self.Ref = self.PURL
	for _, s := range info.Settings {
		self.Properties = append(self.Properties, property{"go:build:" + s.Key, s.Value})
	}
	license := choice{}
	license.License.ID = "Apache-2.0"
	self.Licenses = []choice{license}

	b := bill{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", Spec: "1.6", Version: 1, Serial: serial(hash),
		Metadata: metadata{Timestamp: at.Format(time.RFC3339), Component: self},
	}
	std := &debug.Module{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")}
	uses := dependency{Ref: self.Ref}
	for _, m := range append([]*debug.Module{std}, info.Deps...) {
		c := library(m)
		b.Components = append(b.Components, c)
		b.Dependencies = append(b.Dependencies, dependency{Ref: c.Ref})
		uses.DependsOn = append(uses.DependsOn, c.Ref)
	}
	b.Dependencies = append([]dependency{uses}, b.Dependencies...)
	text, err := json.MarshalIndent(b, "", "  ")
	return append(text, '\n'), err
}

func library(m *debug.Module) component {
	if m.Replace != nil {
		m = m.Replace
	}
	c := component{Type: "library", Name: m.Path, Version: m.Version, PURL: fmt.Sprintf("pkg:golang/%s@%s", m.Path, m.Version)}
	c.Ref = c.PURL
	if m.Sum != "" {
		c.Properties = []property{{"go:sum", m.Sum}}
	}
	return c
}

// serial is a UUID made of the binary's hash: the same binary has the same SBOM.
func serial(hash [sha256.Size]byte) string {
	u := hash[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8: by own rules; variant of RFC 9562
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
