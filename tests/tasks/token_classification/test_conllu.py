from startup_llm.tasks.token_classification.rows import read_conll

CONLLU = """# sent_id = 1
# text = vamonos al mar
1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tvamos\tir\tVERB\tV\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t_
2.1\tx\t_\t_\t_\t_\t_\t_\t_\t_

# sent_id = 2
1\tHola\thola\tINTJ\tI\t_\t0\troot\t_\t_
"""


def test_words_and_universal_parts_of_speech_of_conllu_are_read():
    assert read_conll("a.conllu", CONLLU).to_pydict() == {
        "tokens": [["vamos", "nos"], ["Hola"]],
        "tags": [["VERB", "PRON"], ["INTJ"]],
        "xpos": [["V", "P"], ["I"]],
    }


def test_comments_without_a_key_are_left_out_and_a_word_that_is_a_number_sign_stays():
    table = read_conll("a.conll", "# this is a comment\nAnna B-PER\n# O\n\n# O\none O\n")
    assert table["tokens"].to_pylist() == [["Anna", "#"], ["#", "one"]]
