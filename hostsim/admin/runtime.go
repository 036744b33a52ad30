package admin

import "encoding/json"

// runtimeValues is /runtime: the layers by name, and of each key its value in
// each layer and the one that counts.
func (h *handler) runtimeValues(params) response {
	type entry struct {
		Layers []string `json:"layer_values"`
		Final  string   `json:"final_value"`
	}
	layers, keys := h.server.Runtime()
	all := struct {
		Layers  []string         `json:"layers"`
		Entries map[string]entry `json:"entries"`
	}{append([]string{}, layers...), map[string]entry{}}
	for key, values := range keys {
		e := entry{Layers: values}
		for _, v := range values {
			if v != "" {
				e.Final = v
			}
		}
		all.Entries[key] = e
	}
	body, err := json.Marshal(all)
	if err != nil {
		return text(500, err.Error())
	}
	return jsonResponse(body)
}
