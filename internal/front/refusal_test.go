package front_test

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"busel/internal/front"
	"busel/internal/words"
)

// Every sentence of a refusal is in the catalogues, and every one there is used.
func TestRefusalWords(t *testing.T) {
	languages, err := words.All()
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, name := range []string{"refusal.go", "http.go", "password.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"(refusal\.[a-z-]+)"`).FindAllSubmatch(text, -1) {
			used[string(m[1])] = true
			if languages[0].Texts[string(m[1])] == nil {
				t.Errorf("%s uses %s, which is in no catalogue", name, m[1])
			}
		}
	}
	for key := range languages[0].Texts {
		if strings.HasPrefix(key, "refusal.") && !used[key] {
			t.Errorf("nothing uses %s", key)
		}
	}
}

// A browser hears why a page did not come in its own language, and so does one that asked
// for a tunnel.
func TestRefusalInTheReadersLanguage(t *testing.T) {
	f := start(t, front.Config{})
	for _, c := range []struct{ method, target, language, want string }{
		{"GET", "http://private.example/", "be-BY,be;q=0.9", "Вузел не дазваляе злучэнняў з private.example"},
		{"GET", "http://private.example/", "ru", "Узел не разрешает соединения с private.example"},
		{"GET", "http://private.example/", "", "The relay does not allow connections to private.example"},
		{"CONNECT", "private.example:443", "be", "Вузел не дазваляе злучэнняў з private.example"},
	} {
		conn := dial(t, f)
		_, err := io.WriteString(conn, c.method+" "+c.target+" HTTP/1.1\r\nHost: private.example\r\nAccept: text/html\r\nAccept-Language: "+c.language+"\r\nConnection: close\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: c.method})
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusForbidden || !strings.Contains(string(body), c.want) || !strings.Contains(string(body), `dir="ltr"`) {
			t.Errorf("%s %s in %q: %s %s", c.method, c.target, c.language, res.Status, body)
		}
	}
}

// Whoever does not know the password does not hear what program asks for it.
func TestPasswordIsDemandedWithoutAName(t *testing.T) {
	f := start(t, front.Config{User: "anna", Password: "stork"})
	for _, language := range []string{"en", "ru", "be"} {
		res, body := ask(t, f, "GET", "http://site.example/", "Host: site.example", "Accept: text/html", "Accept-Language: "+language)
		if res.StatusCode != http.StatusProxyAuthRequired || strings.Contains(body, "Busel") || strings.Contains(body, "Бус") {
			t.Errorf("%s: %s %s", language, res.Status, body)
		}
	}
}
