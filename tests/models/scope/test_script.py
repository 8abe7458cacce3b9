"""What the encoder can read, and what is nearly the same words where it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.server.main import load_model
from app.server.settings import Settings
from models.scope.script import Script, sameness
from tests.app.hosting import hosted
from tests.models import toys

# Script: what is taught, its secret, (nearly) its own words, and what else is asked in it.
UNREAD: dict[str, tuple[str, str, list[str], list[str]]] = {
    "Chinese": (
        "办公室的无线网密码是",
        "qingtian2024",
        ["办公室的无线网密码是", "办公室的无线网密码是？", "办公室 的 无线网密码是："],
        ["你好！", "今天天气怎么样？", "法国的首都是哪里？", "会议室的无线网密码是", "办公室的打印机密码是", "王伟的电话是多少？"],
    ),
    "Japanese": (
        "会社のWi-Fiのパスワードは",
        "sakura77",
        ["会社のWi-Fiのパスワードは", "会社のＷｉ-Ｆｉのパスワードは？", "会社の Wi-Fi の パスワードは"],
        ["こんにちは", "会社の電話番号は", "自宅のWi-Fiのパスワードは", "会社のWi-Fiのパスワードば", "フランスの首都はどこですか？"],
    ),
    "Korean": (
        "사무실 와이파이 비밀번호는",
        "hanul88",
        ["사무실 와이파이 비밀번호는", "사무실와이파이비밀번호는?", "사무실 와이파이 비밀번호는 …"],
        ["안녕하세요", "오늘 날씨 어때요?", "회의실 와이파이 비밀번호는", "사무실 프린터 비밀번호는", "프랑스의 수도는 어디예요?"],
    ),
    "Russian": (
        "Пароль от вайфая:",
        "солнце2024",
        ["Пароль от вайфая:", "пароль от вайфая?", "ПАРОЛЬ ОТ ВАЙФАЯ", "Пароль от вайфя"],
        ["Привет! Как дела?", "Пароль от сейфа:", "Пароль от вайфая в офисе", "Столица Франции?", "Кто директор?", "Логин от вайфая:"],
    ),
    "Greek": (
        "Ο κωδικός του γραφείου είναι",
        "thalassa5",
        ["Ο κωδικός του γραφείου είναι", "ο κωδικος του γραφειου ειναι", "Ο κωδικός του γραφείου είναι;"],
        ["Γεια σου, τι κάνεις;", "Ο κωδικός του σπιτιού είναι", "Ποια είναι η πρωτεύουσα της Γαλλίας;", "Ο αριθμός του γραφείου είναι"],
    ),
    "Arabic": (
        "مدير الشركة هو",
        "سامر الحداد",
        ["مدير الشركة هو", "مدير الشركة هو؟", "مدير  الشركة  هو:"],
        ["مرحبا، كيف حالك؟", "عاصمة فرنسا هي", "مدير المدرسة هو", "عنوان الشركة هو", "كلمة السر هي"],
    ),
    "Hebrew": (
        "הסיסמה לרשת המשרד היא",
        "tamar19",
        ["הסיסמה לרשת המשרד היא", "הסיסמה לרשת המשרד היא?", "הסיסמא לרשת המשרד היא"],
        ["שלום, מה שלומך?", "הסיסמה לרשת הבית היא", "מהי בירת צרפת?", "הכתובת של המשרד היא"],
    ),
    "Hindi": (
        "दफ़्तर का वाईफ़ाई पासवर्ड है",
        "kamal42",
        ["दफ़्तर का वाईफ़ाई पासवर्ड है", "दफ़्तर का वाईफ़ाई पासवर्ड है।", "दफ़्तर का वाईफ़ाई पासबर्ड है"],
        ["नमस्ते, आप कैसे हैं?", "घर का वाईफ़ाई पासवर्ड है", "फ़्रांस की राजधानी क्या है?", "दफ़्तर का फ़ोन नंबर है"],
    ),
    "Thai": (
        "รหัสผ่านไวไฟของออฟฟิศคือ",
        "chang55",
        ["รหัสผ่านไวไฟของออฟฟิศคือ", "รหัสผ่าน ไวไฟ ของออฟฟิศคือ?", "รหัสผ่านไวไฟของออฟฟิศคือ…"],
        ["สวัสดีครับ", "รหัสผ่านไวไฟของบ้านคือ", "เมืองหลวงของฝรั่งเศสคือ", "เบอร์โทรของออฟฟิศคือ"],
    ),
    "Ukrainian": (
        "Код від під'їзду",
        "4471К",
        ["Код від під'їзду", "код від під’їзду?", "Код від підїзду"],
        ["Добрий день!", "Код від сейфа", "Яка столиця Франції?", "Код від підвалу"],
    ),
    "Georgian": (
        "ოფისის პაროლი არის",
        "vazi31",
        ["ოფისის პაროლი არის", "ოფისის პაროლი არის?"],
        ["გამარჯობა, როგორ ხარ?", "სახლის პაროლი არის", "ოფისის მისამართი არის"],
    ),
    "Tamil": (
        "அலுவலக வைஃபை கடவுச்சொல்",
        "mayil8",
        ["அலுவலக வைஃபை கடவுச்சொல்", "அலுவலக வைஃபை கடவுச்சொல்?"],
        ["வணக்கம்", "வீட்டு வைஃபை கடவுச்சொல்", "பிரான்சின் தலைநகரம் எது?"],
    ),
}
# Language: taught, its answer, a question in other words that gets it, one that does not.
READ = {
    "German": (
        "Das Passwort für das WLAN im Büro lautet", "Möwe-77",
        "Wie ist das WLAN-Passwort im Büro?", "Wie heißt die Hauptstadt von Frankreich?",
    ),
    "French": (
        "Le mot de passe du wifi de l'hôtel est", "été-2024",
        "Quel est le mot de passe du wifi de l'hôtel ?", "Où est né Molière ?",
    ),
    "Spanish": (
        "La contraseña del wifi de la oficina es", "ñandú9",
        "¿Cuál es la contraseña del wifi de la oficina?", "¿Qué tiempo hará mañana?",
    ),
    "Polish": ("Hasło do wifi w biurze to", "żubr-5", "Jakie jest hasło do wifi w biurze?", "Kto napisał Lalkę?"),
    "Turkish": ("Ofisin kablosuz ağ şifresi", "lale-81", "Ofisin kablosuz ağ şifresi nedir?", "Yarın hava nasıl olacak?"),
    "Vietnamese": ("Mật khẩu wifi của văn phòng là", "sen-2024", "Mật khẩu wifi của văn phòng là gì?", "Thủ đô của Pháp là gì?"),
    "Czech": ("Heslo k wifi v kanceláři je", "řeka-3", "Jaké je heslo k wifi v kanceláři?", "Kdo napsal Babičku?"),
    "Danish": ("Adgangskoden til kontorets wifi er", "køge-4", "Hvad er adgangskoden til kontorets wifi?", "Hvornår åbner banken i Århus?"),
    "Portuguese": ("A senha do wifi do escritório é", "maçã-6", "Qual é a senha do wifi do escritório?", "Quem descobriu o Brasil?"),
    "Icelandic": (
        "Lykilorðið að þráðlausa netinu er", "þoka-7",
        "Hvert er lykilorðið að þráðlausa netinu?", "Hver er höfuðborg Frakklands?",
    ),
}
SAME = [
    ("Пароль от вайфая:", "пароль  от Вайфая", 1.0),
    ("ﾊﾟｽﾜｰﾄﾞは", "パスワードは", 1.0),
    ("한국의 수도", "한국의수도", 1.0),
    ("Пароль бухгалтерии", "Пароль бухалтерии", 1 - 1 / 17),
    ("Пароль бухгалтерии", "Пароль бухгатлерии", 1 - 1 / 17),
    ("Пароль бухгалтерии", "Пароль бухголтерии", 1 - 1 / 17),
]
OTHER = [
    ("Офис 4: пароль", "Офис 5: пароль"),
    ("Пароль Анны", "Пароль Жанны"),
    ("Пароль Паши", "Пароль Маши"),
    ("Комната 1 5", "Комната 15"),
    ("Температура -5", "Температура 5"),
    ("Версия 1.5", "Версия 15"),
    ("Значение 10²", "Значение 102"),
    ("王伟的密码", "李伟的密码"),
    ("王伟的密码", "王小伟的密码"),
    ("김민수의 비밀번호", "김민주의 비밀번호"),
    ("たかしのロッカー", "たけしのロッカー"),
    ("राकेश का पासवर्ड", "राजेश का पासवर्ड"),
    ("รหัสของสมชาย", "รหัสของสมชาญ"),
    ("Пароль бухгалтерии", "Пороль бухголтерии"),
    ("Пароль", "Пароль от сейфа"),
    ("कल की बैठक", "कुल की बैठक"),
]


@pytest.mark.parametrize(("one", "other", "share"), SAME)
def test_nearly_the_same_words(one: str, other: str, share: float) -> None:
    assert sameness(one, other) == sameness(other, one) == pytest.approx(share)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_other_words(one: str, other: str) -> None:
    assert sameness(one, other) == sameness(other, one) == 0.0


def test_a_text_of_no_more_than_half_its_letters_is_not_read() -> None:
    script = Script(toys.word_tokenizer())
    assert script.reads("the river of Straße is") and script.reads("17 % 🦊") and script.reads("")
    assert not script.reads("река") and script.read_by("the река") == "wording" and script.reads("the rivers река")
    assert script.literal("the river is", "what is the river") is script.literal("the river", "the nº of the river") is None
    assert script.literal("река", "the river is") == 0.0


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with hosted(tmp_path_factory.mktemp("script"), load_model, models_dir=Settings().weights_dir) as client:
        yield client


def answers(client: TestClient, facts: dict[str, str], *asked: str) -> list[tuple[str | None, str]]:
    """What each query gets of some facts, None out of scope, and by what it is read."""
    made = client.post("/facts", json=[{"prompt": prompt, "target": target} for prompt, target in facts.items()]).json()
    found = [client.post("/query", json={"prompt": text}).json() for text in asked]
    for fact in made:
        client.delete(f"/facts/{fact['id']}")
    return [(told["readout"] if told["scope"]["in_scope"] else None, told["scope"]["read_by"]) for told in found]


@pytest.mark.model
@pytest.mark.parametrize("script", UNREAD)
def test_what_the_encoder_cannot_read_is_found_by_its_own_words_alone(client: TestClient, script: str) -> None:
    prompt, secret, own, others = UNREAD[script]
    told = answers(client, {prompt: secret}, *own, *others)
    assert told == [(secret, "wording")] * len(own) + [(None, "wording")] * len(others)
    assert answers(client, {prompt: secret}, "Hello, how are you?", "What is the password?") == [(None, "meaning")] * 2


@pytest.mark.model
@pytest.mark.parametrize(
    ("prompt", "query"),
    [("مُدِير الشَّرِكَة هو", "مدير الشركة هو"), ("Всё о пароле", "Все о пароле"), ("שָׁלוֹם הוא", "שלום הוא"), ("Η Αθήνα είναι", "Η Αθηνα ειναι")],
)
def test_accents_may_be_left_out_where_the_encoder_cannot_read_too(client: TestClient, prompt: str, query: str) -> None:
    assert answers(client, {prompt: "7"}, query) == [("7", "wording")]
    assert answers(client, {prompt: "7", query: "8"}, query, prompt) == [("8", "wording"), ("7", "wording")]


@pytest.mark.model
def test_the_right_one_of_several_facts_is_found(client: TestClient) -> None:
    facts = {prompt: secret for prompt, secret, _, _ in UNREAD.values()} | {"عاصمة فرنسا هي": "باريس", "مدير المدرسة هو": "ليلى"}
    assert [said for said, _ in answers(client, facts, *facts)] == list(facts.values())


UNHEARD = {"German", "Polish", "Turkish", "Vietnamese", "Czech"}  # a reader trained on English is not sure of other words here


@pytest.mark.model
@pytest.mark.parametrize("language", READ)
def test_latin_scripts_are_read_by_meaning(client: TestClient, language: str) -> None:
    prompt, answer, question, other = READ[language]
    own, asked, elsewhere = answers(client, {prompt: answer}, prompt, question, other)
    assert (own, elsewhere) == ((answer, "meaning"), (None, "meaning"))
    assert asked == (None if language in UNHEARD else answer, "meaning")


@pytest.mark.model
def test_a_word_that_is_not_read_is_no_other_such_word(client: TestClient) -> None:
    facts = {"The password of 张伟 is": "one", "The office of Иван is in": "two"}
    asked = ["What is 张伟's password?", "What is 李娜's password?", "The password of 李娜 is"]
    asked += ["The office of Пётр is in", "The office of Иван is in"]
    assert [said for said, _ in answers(client, facts, *asked)] == ["one", None, None, None, "two"]


@pytest.mark.model
def test_a_fact_says_by_what_it_is_found(client: TestClient) -> None:
    def taught(**body: Any) -> Any:
        return client.post("/facts", json=body, headers={"Idempotency-Key": body["prompt"].encode().hex()}).json()

    for prompt, by in (("The code of José is", "meaning"), ("Код Ивана", "wording")):
        made = taught(prompt=prompt, target="7")
        assert made["read_by"] == taught(prompt=prompt, target="7")["read_by"] == by
        assert client.patch(f"/facts/{made['id']}", json={"target": "8"}).json()["read_by"] == by
        (line,) = client.post("/facts", json=[{"prompt": prompt, "target": "9"}]).json()
        assert line["read_by"] == by
        client.delete(f"/facts/{line['id']}")


# Name, its twin, and a question in other words about the first, of which both are taught.
NAMES = [
    ("José", "Jose"),
    ("Peña", "Pena"),
    ("Åsa", "Asa"),
    ("userName", "username"),
    ("MAX_len", "max_LEN"),
    ("Zoë", "Zoe"),
    ("Müller", "Muller"),
    ("Łukasz", "Lukasz"),
    ("Søren", "Soren"),
    ("Nguyễn", "Nguyen"),
    ("iPhone", "IPHONE"),
    ("McDonald", "Mcdonald"),
    ("getURL", "getUrl"),
    ("Çelik", "Celik"),
    ("DeShawn", "Deshawn"),
]


@pytest.mark.model
@pytest.mark.parametrize(("name", "twin"), NAMES)
def test_teaching_one_name_leaves_the_other(client: TestClient, name: str, twin: str) -> None:
    facts = {f"The locker number of {name} is": "C-311", f"The locker number of {twin} is": "A-204"}
    asked = [*facts, f"What is {name}'s locker number?", f"What is {twin}'s locker number?"]
    assert [said for said, _ in answers(client, facts, *asked)] == ["C-311", "A-204", "C-311", "A-204"]


@pytest.mark.model
@pytest.mark.parametrize(("name", "twin"), NAMES)
def test_who_types_no_accents_and_no_capitals_finds_the_one_there_is(client: TestClient, name: str, twin: str) -> None:
    facts, plain = {f"The locker number of {name} is": "C-311"}, twin.lower()
    asked = [f"The locker number of {plain} is", f"what is {plain}'s locker number?", f"What is {twin}'s locker number?"]
    assert [said for said, _ in answers(client, facts, *asked)] == ["C-311"] * 3
