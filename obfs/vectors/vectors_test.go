package vectors

import "testing"

func TestCursor(t *testing.T) {
	c := Of([]byte{1, 2, 3, 0, 2, 8, 9, 7})
	if v := c.Uint(3); v != 0x010203 {
		t.Errorf("an integer is %#x", v)
	}
	v := c.Vector(2)
	if string(v.B) != "\x08\x09" || !v.OK || v.Whole() {
		t.Errorf("a vector is %v", v)
	}
	if c.Whole() || c.Uint(1) != 7 || !c.Whole() {
		t.Errorf("the end is %v", c)
	}
	for _, short := range [][]byte{nil, {0}, {0, 3, 1, 2}} {
		c := Of(short)
		if v := c.Vector(2); v.OK || v.B != nil || c.OK || c.Whole() {
			t.Errorf("%v has a vector %v", short, v)
		}
		if c.Take(0) != nil || c.OK {
			t.Errorf("%v is well again", short)
		}
	}
}
