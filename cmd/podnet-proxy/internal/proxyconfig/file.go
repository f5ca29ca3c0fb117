package proxyconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"
)

// maxFile is far more than any KubeProxyConfiguration.
const maxFile = 1 << 20

// readFile reads a KubeProxyConfiguration and says every field that it does not know.
func readFile(path string) (v1alpha1.KubeProxyConfiguration, []error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	} else if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return v1alpha1.KubeProxyConfiguration{}, []error{fmt.Errorf("--config %q: %w: want the path of a KubeProxyConfiguration", path, err)}
	}
	return decode(path, data)
}

func decode(path string, data []byte) (v1alpha1.KubeProxyConfiguration, []error) {
	const want = "want apiVersion kubeproxy.config.k8s.io/v1alpha1, kind KubeProxyConfiguration"
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return v1alpha1.KubeProxyConfiguration{}, []error{err}
	}
	var k v1alpha1.KubeProxyConfiguration
	object, _, err := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer().Decode(data, nil, nil)
	if read, ok := object.(*v1alpha1.KubeProxyConfiguration); ok {
		k = *read
	}
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		var faults []error
		for _, e := range strict.Errors() {
			text := strings.TrimPrefix(strings.Join(strings.Fields(e.Error()), " "), "yaml: unmarshal errors: ")
			if strings.HasPrefix(text, "unknown field") {
				text += ": want a field of KubeProxyConfiguration v1alpha1; remove it, or correct its spelling"
			}
			faults = append(faults, fmt.Errorf("--config %q: %s", path, text))
		}
		return k, faults
	}
	switch {
	case err == nil:
	case runtime.IsMissingVersion(err), runtime.IsMissingKind(err):
		return k, []error{fmt.Errorf("--config %q: apiVersion or kind is missing: %s", path, want)}
	case runtime.IsNotRegisteredError(err):
		var kind metav1.TypeMeta
		_ = yaml.Unmarshal(data, &kind) // was read before
		return k, []error{fmt.Errorf("--config %q: apiVersion %q, kind %q: %s", path, kind.APIVersion, kind.Kind, want)}
	default:
		return k, []error{fmt.Errorf("--config %q: %s", path, strings.TrimPrefix(strings.Join(strings.Fields(err.Error()), " "), "couldn't get version/kind; "))}
	}
	return k, nil
}

// Write returns the configuration as a file.
func Write(k v1alpha1.KubeProxyConfiguration) ([]byte, error) { return yaml.Marshal(k) }
