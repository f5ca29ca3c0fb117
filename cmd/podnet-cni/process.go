package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// maxStdin bounds the network configuration.
const maxStdin = 1 << 20

// process is the edge between the plugin and the operating system. It follows containernetworking/cni's pkg/skel v1.3.1 to the letter of its codes (a
// test compares the two), and differs where that cannot be used: its dispatcher takes streams from os only, reads stdin without bound, looks whether
// the namespace is the plugin's own after ADD has run instead of before, and prints errors without their cniVersion.
type process struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// verbs are what a plugin does. The configuration has been read, and its version fits.
type verbs struct {
	add    func(context.Context, *skel.CmdArgs) (types.Result, error)
	del    func(context.Context, *skel.CmdArgs) error
	check  func(context.Context, *skel.CmdArgs) error
	gc     func(context.Context, *skel.CmdArgs) error
	status func(context.Context, *skel.CmdArgs) error
}

// header is the part of a network configuration that the edge itself needs.
type header struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
}

// since is the first version of the specification that knows a verb.
var since = map[string]string{"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}

// run does what CNI_COMMAND says and returns the exit status.
func (p process) run(ctx context.Context, v verbs) int {
	command := p.getenv("CNI_COMMAND")
	if command == "" {
		fmt.Fprintf(p.stderr, "podnet-cni is a CNI plugin: a container runtime runs it, with CNI_COMMAND and the network's configuration on standard input.\nCNI protocol versions supported: %s\n",
			strings.Join(version.All.SupportedVersions(), ", "))
		return 0
	}
	if command == "VERSION" {
		if err := version.All.Encode(p.stdout); err != nil {
			return p.fail("", types.NewError(types.ErrIOFailure, "write version: "+err.Error(), ""))
		}
		return 0
	}
	args, conf, err := p.read(command)
	if err != nil {
		return p.fail(conf.CNIVersion, err)
	}
	if err := p.dispatch(ctx, command, args, conf, v); err != nil {
		return p.fail(conf.CNIVersion, err)
	}
	return 0
}

// read takes the arguments from the environment and standard input.
func (p process) read(command string) (*skel.CmdArgs, header, error) {
	args, err := argsFromEnv(command, p.getenv)
	if err != nil {
		return nil, header{}, err
	}
	args.StdinData, err = io.ReadAll(io.LimitReader(p.stdin, maxStdin+1))
	if err != nil {
		return nil, header{}, types.NewError(types.ErrIOFailure, "read the configuration from standard input: "+err.Error(), "")
	}
	if len(args.StdinData) > maxStdin {
		return nil, header{}, types.NewError(types.ErrDecodingFailure, "the configuration on standard input is too long", fmt.Sprintf("want at most %d bytes", maxStdin))
	}
	var conf header
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return nil, header{}, types.NewError(types.ErrDecodingFailure, "decode the configuration: "+err.Error(), "")
	}
	if err := validNetworkName(conf.Name); err != nil {
		return nil, conf, types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	return args, conf, nil
}

// dispatch checks that the configuration's version knows the verb, and runs it.
func (p process) dispatch(ctx context.Context, command string, args *skel.CmdArgs, conf header, v verbs) error {
	confVersion := conf.CNIVersion
	if confVersion == "" {
		confVersion = "0.1.0" // the specification had no such field before
	}
	first, limited := since[command]
	if limited {
		known, err := version.GreaterThanOrEqualTo(confVersion, first)
		if err != nil {
			return types.NewError(types.ErrDecodingFailure, err.Error(), "")
		}
		if !known {
			return types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("cniVersion %s does not know %s", confVersion, command), "want "+first+" or later")
		}
	}
	if supported := version.All.SupportedVersions(); !slices.Contains(supported, confVersion) {
		return types.NewError(types.ErrIncompatibleCNIVersion, "incompatible CNI versions", fmt.Sprintf("cniVersion %q: want one of %s", confVersion, strings.Join(supported, ", ")))
	}
	switch command {
	case "ADD":
		result, err := v.add(ctx, args)
		if err != nil {
			return err
		}
		return p.print(result, confVersion)
	case "DEL":
		return v.del(ctx, args)
	case "CHECK":
		return v.check(ctx, args)
	case "GC":
		return v.gc(ctx, args)
	default: // argsFromEnv lets no other pass
		return v.status(ctx, args)
	}
}

func (p process) print(result types.Result, confVersion string) error {
	converted, err := result.GetAsVersion(confVersion)
	if err != nil {
		return fmt.Errorf("convert the result to version %s: %w", confVersion, err)
	}
	if err := converted.PrintTo(p.stdout); err != nil {
		return types.NewError(types.ErrIOFailure, "write the result: "+err.Error(), "")
	}
	return nil
}

// fail writes err as the specification says: JSON on standard output, exit status not 0.
func (p process) fail(confVersion string, err error) int {
	if confVersion == "" {
		confVersion = version.Current()
	}
	var e *types.Error
	if !errors.As(err, &e) {
		e = types.NewError(codeOf(err), err.Error(), "")
	}
	report := struct {
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{confVersion, e}
	encoder := json.NewEncoder(p.stdout)
	encoder.SetIndent("", "    ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(report); err != nil {
		fmt.Fprintf(p.stderr, "podnet-cni: write the error: %v\n", err)
	}
	return 1
}
