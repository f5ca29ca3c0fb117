// Package proxyconfig reads what tells podnet-proxy what to do: kube-proxy's configuration file, kube-proxy's command line, and a few flags of its own.
//
// What it does: Parse returns one Config, checked, in which every field has a value. The file is a KubeProxyConfiguration of
// kubeproxy.config.k8s.io/v1alpha1, decoded strictly: kube-proxy itself falls back to ignoring what it does not know, which hides a typing error.
// Defaults and checks are those of kube-proxy v1.36.
//
// Precedence is kube-proxy's: with --config, the flags that say the same as a field of the file are ignored (and a warning names each), but for
// --hostname-override, --master, -v and --logging-format, which win. podnet-proxy's own flags always count; --mode wins over the file's mode.
//
// What it never touches: anything. It reads one file, and asks for the host's name.
//
// Failure: every fault is reported with the field or flag, the value and what is allowed, all at once. A field that podnet-proxy does not need is
// accepted with a warning that says why; a test fails when a field of kube-proxy's type is neither used nor explained.
//
// Privileges: none. Concurrency: functions only.
package proxyconfig
