package treetest

import "testing"

func TestMem(t *testing.T) { Run(t, func(t *testing.T) Tree { return New(t) }) }
