package doctor

import (
	"iter"

	"go.yaml.in/yaml/v3"
)

// yamlNode is a value in a YAML file; a value that does not exist or is of another kind is empty. The file is not
// decoded into a struct, because the decoder's errors about duplicate keys grow with the square of the file.
type yamlNode struct{ n *yaml.Node }

func parseYAML(text string) (yamlNode, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) == 0 {
		return yamlNode{}, err
	}
	return yamlNode{doc.Content[0]}, nil
}

// of follows an alias, and returns an empty node for a value of another kind.
func (y yamlNode) of(kind yaml.Kind) *yaml.Node {
	n := y.n
	if n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil || n.Kind != kind {
		return &yaml.Node{}
	}
	return n
}

// pairs yields the keys and values of a mapping, in order.
func (y yamlNode) pairs() iter.Seq2[string, yamlNode] {
	return func(yield func(string, yamlNode) bool) {
		content := y.of(yaml.MappingNode).Content
		for i := 0; i+1 < len(content) && yield(content[i].Value, yamlNode{content[i+1]}); i += 2 {
		}
	}
}

// at returns the value of a key.
func (y yamlNode) at(key string) yamlNode {
	for k, v := range y.pairs() {
		if k == key {
			return v
		}
	}
	return yamlNode{}
}

func (y yamlNode) text() string { return y.of(yaml.ScalarNode).Value }

// texts returns the scalars of a sequence.
func (y yamlNode) texts() (list []string) {
	for _, c := range y.of(yaml.SequenceNode).Content {
		list = append(list, yamlNode{c}.text())
	}
	return list
}
