package main

import (
	"encoding/json"

	"github.com/containernetworking/cni/pkg/types"
)

// confJSON is the network configuration as it stands on standard input. docs/cni-plugin.md explains each key; a test looks that it
// explains all of them.
type confJSON struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Type       string `json:"type"`

	Bridge           string `json:"bridge"`
	IsGateway        bool   `json:"isGateway"`
	IsDefaultGateway *bool  `json:"isDefaultGateway"`
	ForceAddress     bool   `json:"forceAddress"`
	IPMasq           *bool  `json:"ipMasq"`
	IPMasqBackend    string `json:"ipMasqBackend"`
	MTU              int    `json:"mtu"`
	HairpinMode      bool   `json:"hairpinMode"`

	SubnetFile          string   `json:"subnetFile"`
	NonMasqueradeCIDRs  []string `json:"nonMasqueradeCIDRs"`
	PreserveDefaultVLAN any      `json:"preserveDefaultVlan"` // means nothing without vlan, which is refused

	IPAM ipamJSON  `json:"ipam"`
	DNS  types.DNS `json:"dns"`

	Args struct {
		CNI struct {
			MAC string   `json:"mac"`
			IPs []string `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
	RuntimeConfig struct {
		MAC      string        `json:"mac"`
		IPs      []string      `json:"ips"`
		IPRanges [][]rangeJSON `json:"ipRanges"`
	} `json:"runtimeConfig"`

	PrevResult json.RawMessage `json:"prevResult"`

	ValidAttachments []types.GCAttachment `json:"cni.dev/valid-attachments"`
	// Attachments is what libcni before 1.2 called it (containernetworking/cni#1101).
	Attachments []types.GCAttachment `json:"cni.dev/attachments"`

	unsupportedJSON
}

// unsupportedJSON are keys of the bridge plugin that this one does not have. Their zero values are accepted.
type unsupportedJSON struct {
	VLAN                      json.RawMessage `json:"vlan"`
	VLANTrunk                 json.RawMessage `json:"vlanTrunk"`
	MACSpoofCheck             json.RawMessage `json:"macspoofchk"`
	PromiscMode               json.RawMessage `json:"promiscMode"`
	PortIsolation             json.RawMessage `json:"portIsolation"`
	DisableContainerInterface json.RawMessage `json:"disableContainerInterface"`
	EnableDAD                 json.RawMessage `json:"enabledad"`
}

// ipamJSON is host-local's object.
type ipamJSON struct {
	Type       string        `json:"type"`
	Ranges     [][]rangeJSON `json:"ranges"`
	Routes     []routeJSON   `json:"routes"`
	DataDir    string        `json:"dataDir"`
	ResolvConf string        `json:"resolvConf"`
	rangeJSON                // the legacy form: one range beside the other keys
}

type rangeJSON struct {
	Subnet     string `json:"subnet"`
	RangeStart string `json:"rangeStart"`
	RangeEnd   string `json:"rangeEnd"`
	Gateway    string `json:"gateway"`
}

type routeJSON struct {
	Dst      string  `json:"dst"`
	GW       string  `json:"gw"`
	MTU      int     `json:"mtu"`
	AdvMSS   int     `json:"advmss"`
	Priority int64   `json:"priority"`
	Table    *int64  `json:"table"`
	Scope    *uint16 `json:"scope"`
}

// isZeroJSON reports whether value says "off": absent, null, false, 0, "" or empty.
func isZeroJSON(value json.RawMessage) bool {
	switch string(value) {
	case "", "null", "false", "0", `""`, "[]", "{}":
		return true
	}
	return false
}
