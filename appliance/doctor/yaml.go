package doctor

import (
	"iter"

	"go.yaml.in/yaml/v3"
)

// yamlNode is a value in a YAML file; what is not there, or of another kind, is empty. A file is not decoded into a
// struct, because what the decoder says of keys that stand twice grows with the square of the file.
type yamlNode struct{ n *yaml.Node }

func parseYAML(text string) (yamlNode, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) == 0 {
		return yamlNode{}, err
	}
	return yamlNode{doc.Content[0]}, nil
}

// of follows an alias, and returns an empty node for what is of another kind.
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

// pairs are the keys and values of a mapping, in its order.
func (y yamlNode) pairs() iter.Seq2[string, yamlNode] {
	return func(yield func(string, yamlNode) bool) {
		content := y.of(yaml.MappingNode).Content
		for i := 0; i+1 < len(content) && yield(content[i].Value, yamlNode{content[i+1]}); i += 2 {
		}
	}
}

// at is the value of a key.
func (y yamlNode) at(key string) yamlNode {
	for k, v := range y.pairs() {
		if k == key {
			return v
		}
	}
	return yamlNode{}
}

func (y yamlNode) text() string { return y.of(yaml.ScalarNode).Value }

// texts are the scalars of a sequence.
func (y yamlNode) texts() (list []string) {
	for _, c := range y.of(yaml.SequenceNode).Content {
		list = append(list, yamlNode{c}.text())
	}
	return list
}
