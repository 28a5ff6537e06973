package rule

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"busel/scripts/lab/censor/packet"
)

func TestSmoke(t *testing.T) {
	text, err := os.ReadFile("../../rules/s1-rst-gfw.toml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse("s1-rst-gfw.toml", text)
	if err != nil {
		t.Fatal(err)
	}
	s := NewSet(rand.New(rand.NewPCG(1, 2)), f)
	_ = s
	_ = packet.TCP
	_ = time.Now
	t.Logf("%+v", s.Counts())
}
