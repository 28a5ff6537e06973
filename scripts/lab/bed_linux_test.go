package main

import "testing"

// The same rules twice are two, of one text.
func TestRulesTwice(t *testing.T) {
	for _, name := range []string{"s2-drop-busiest", "s2-drop-busiest#1", "s2-drop-busiest#2"} {
		f, err := readRules(name)
		if err != nil || f.Name != name || f.Simulator != "S2" {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	for _, name := range []string{"nonsense", "nonsense#1", "#1", ""} {
		if _, err := readRules(name); err == nil {
			t.Errorf("%q was read", name)
		}
	}
}
