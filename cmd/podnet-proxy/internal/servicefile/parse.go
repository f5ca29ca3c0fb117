package servicefile

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/kube"
)

const (
	maxFile     = 64 << 20
	maxDocument = 16 << 20
)

type sum [sha256.Size]byte

// document is what one document of a file says.
type document struct {
	sum     sum
	line    int
	key     string // kind and name, even if err is set; "" if that could not be read
	objects []object
	err     error
}

// object is one thing that is described. One of service, slice and node is set, or none: it is an object that no proxy serves.
type object struct {
	key     string
	service *service.Service
	slice   *slice
	node    *kube.Node
}

type slice struct {
	of   service.Name
	name string
	what service.Slice
}

// parse returns the documents of a file, in order. What known has is not parsed again.
func parse(data []byte, nodeName string, known map[sum]document) []document {
	var docs []document
	for _, c := range split(data) {
		d := document{line: c.line, sum: sha256.Sum256(c.text)}
		if have, ok := known[d.sum]; ok {
			have.line = c.line
			docs = append(docs, have)
			continue
		}
		if len(c.text) > maxDocument {
			d.err = fmt.Errorf("%d bytes: want at most %d", len(c.text), maxDocument)
		} else {
			d.key, d.objects, d.err = decode(c.text, nodeName)
		}
		docs = append(docs, d)
	}
	return docs
}

// chunk is the text of one document and the line where it starts.
type chunk struct {
	text []byte
	line int
}

// split cuts at the document markers. Documents of blank lines and comments are no documents.
func split(data []byte) []chunk {
	var out []chunk
	start, first, number, offset, blank := 0, 1, 0, 0, true
	flush := func(end int) {
		if !blank {
			out = append(out, chunk{data[start:end], first})
		}
		blank = true
	}
	for line := range bytes.Lines(data) {
		number++
		text := bytes.TrimRight(line, " \t\r\n")
		if bytes.Equal(text, []byte("---")) || bytes.Equal(text, []byte("...")) || bytes.HasPrefix(text, []byte("--- #")) {
			flush(offset)
			start, first = offset+len(line), number+1
		} else {
			text = bytes.TrimSpace(text)
			blank = blank && (len(text) == 0 || text[0] == '#')
		}
		offset += len(line)
	}
	flush(len(data))
	return out
}

// head is what tells documents apart.
type head struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct{ Namespace, Name string } `json:"metadata"`
	Service         string                           `json:"service"`
}

// decode turns a document into objects. On error key says which it would have been, if that could be read.
func decode(text []byte, nodeName string) (key string, objects []object, err error) {
	var h head
	if err := yaml.Unmarshal(text, &h); err != nil {
		return "", nil, brief(err)
	}
	if h.Metadata.Namespace == "" {
		h.Metadata.Namespace = metav1.NamespaceDefault
	}
	name := h.Metadata.Namespace + "/" + h.Metadata.Name
	switch h.APIVersion + " " + h.Kind {
	case "v1 Service":
		var in corev1.Service
		if err := strict(text, &in); err != nil {
			return "Service " + name, nil, err
		}
		in.Namespace = h.Metadata.Namespace
		one, err := fromService(&in)
		return one.key, []object{one}, err
	case "discovery.k8s.io/v1 EndpointSlice":
		var in discoveryv1.EndpointSlice
		if err := strict(text, &in); err != nil {
			return "EndpointSlice " + name, nil, err
		}
		in.Namespace = h.Metadata.Namespace
		one, err := fromSlice(&in)
		return one.key, []object{one}, err
	case "v1 Node":
		var in corev1.Node
		if err := strict(text, &in); err != nil {
			return "Node " + h.Metadata.Name, nil, err
		}
		return "Node " + in.Name, []object{fromNode(&in, nodeName)}, nil
	case "v1 List", "v1 ServiceList", "discovery.k8s.io/v1 EndpointSliceList", "v1 NodeList":
		return decodeList(text, nodeName)
	case " ":
		return decodeShort(text, h.Service)
	}
	return "", nil, fmt.Errorf("apiVersion %q, kind %q: want v1 Service, Node or List, discovery.k8s.io/v1 EndpointSlice, or neither and the short form", h.APIVersion, h.Kind)
}

func decodeList(text []byte, nodeName string) (string, []object, error) {
	var list struct {
		metav1.TypeMeta `json:",inline"`
		Items           []runtime.RawExtension `json:"items"`
	}
	if err := yaml.Unmarshal(text, &list); err != nil {
		return "", nil, brief(err)
	}
	var objects []object
	for i, item := range list.Items {
		key, some, err := decode(item.Raw, nodeName)
		if err != nil {
			return "", nil, fmt.Errorf("items[%d] %s: %w", i, key, err)
		}
		objects = append(objects, some...)
	}
	return "List", objects, nil
}

func strict(text []byte, into any) error {
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		return brief(err)
	}
	return nil
}

// brief makes a parser's error one line.
func brief(err error) error {
	text := strings.Join(strings.Fields(err.Error()), " ")
	for _, noise := range []string{"error unmarshaling JSON: ", "error converting YAML to JSON: ", "while decoding JSON: ", "json: ", "yaml: ", "unmarshal errors: "} {
		text = strings.ReplaceAll(text, noise, "")
	}
	if len(text) > 512 {
		text = text[:512] + "..."
	}
	return errors.New(text)
}

func fromService(in *corev1.Service) (object, error) {
	o := object{key: "Service " + in.Namespace + "/" + in.Name}
	if in.Name == "" {
		return o, errors.New("metadata.name is missing")
	}
	if out, ok := kube.Service(in); ok {
		o.service = &out
	}
	return o, nil
}

func fromSlice(in *discoveryv1.EndpointSlice) (object, error) {
	o := object{key: "EndpointSlice " + in.Namespace + "/" + in.Name}
	if in.Name == "" {
		return o, errors.New("metadata.name is missing")
	}
	if in.Labels[discoveryv1.LabelServiceName] == "" {
		return o, fmt.Errorf("label %s is missing: want the name of the Service", discoveryv1.LabelServiceName)
	}
	if of, out, ok := kube.EndpointSlice(in); ok {
		o.slice = &slice{of, in.Name, out}
	}
	return o, nil
}

func fromNode(in *corev1.Node, nodeName string) object {
	o := object{key: "Node " + in.Name}
	if in.Name == nodeName {
		n := kube.NodeOf(in)
		o.node = &n
	}
	return o
}
