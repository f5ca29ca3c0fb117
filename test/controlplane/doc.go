// Package controlplane starts a real Kubernetes control plane for tests and for the lab: etcd, kube-apiserver and, if it is given cluster CIDRs,
// kube-controller-manager. No kubelet, no scheduler: nodes are whoever makes Node objects. The binaries are those of test/kube/build.
//
// What it does: [Start] makes keys and certificates, chooses free ports, starts the components and returns when /readyz of each says ok. They
// run in the network namespace of [Config.Netns], or on the caller's loopback. The API server authenticates by static tokens ([Config.Users])
// and service-account tokens ([ControlPlane.Token]) and authorizes by RBAC; admission is Kubernetes' default, with ValidatingAdmissionPolicy.
//
// What it owns: its processes, and the files below its directory. It recognises what a killed run left by the lock on that directory, which
// is free then, and removes it at the next [Start].
//
// What it never touches: network devices, cgroups, and Kubernetes' usual places (/etc/kubernetes, /var/lib, ~/.kube).
//
// Faults on purpose: [ControlPlane.Pause] stops a component without closing its connections (half-open), [ControlPlane.Kill] and
// [ControlPlane.Stop] end it, [ControlPlane.Start] starts it again on the same port with the same data, [ControlPlane.SaveEtcd] and
// [ControlPlane.RestoreEtcd] take the cluster back to an older state, [ControlPlane.SetToken] rotates a static token. Some need no method: a
// restarted API server answers 410 to watches from before; a PriorityLevelConfiguration without
// shares makes it answer 429 to all but one request at a time (faults_test.go shows both); a
// ClusterRoleBinding can be deleted; a token that is bound to an object is refused within 10 s of the object's end.
//
// How failure behaves: an error names the component and ends with the tail of its log. A failed [Start] leaves nothing behind. The processes
// die with the process that started them, even if that is killed (PR_SET_PDEATHSIG).
//
// Privileges: none on loopback; CAP_SYS_ADMIN for [Config.Netns]. Linux only; elsewhere Start returns [errors.ErrUnsupported].
//
// Concurrency: requests ([Client], Token, Kubectl) may run at the same time. Methods that start, stop or pause components may not run at the same
// time as one another.
//
// What it takes is in the README of test/kube.
package controlplane
