package proxy

import "testing"

// The expectations are what Envoy 1.40.0 left in requests.
func TestReferer(t *testing.T) {
	for value, want := range map[string]bool{
		"http://h/": true, "http://h": true, "ftp://x/": true, "android-app://x": true, "http://h/%zz": true, `http://h/"q"`: true,
		"http://[::1]/": true, "http://a.b.c:1/<x>": true, "http://h/,http://h/": true,
		"https://h/p?q#f": false, "http://u:p@h/": false, "http://": false, "http://h:99999/": false, "http://h/\xff": false,
		"http://h/ x": false, "http://h x/": false, "http:h": false, "http://H_x/": false, "http://[::1": false,
		"": true, "v": true, "/p": true, "//h/p": true, "1": true, "*": true, "null": true, "?q": true, "x,close": true, "-": true, "localhost": true,
		"about:blank": false, "h:80": false, "a b": false, "a:b": false, "\xe4": false, "a\xff": false,
	} {
		if got := validReferer(value); got != want {
			t.Errorf("validReferer(%q) = %v, want %v", value, got, want)
		}
	}
}
